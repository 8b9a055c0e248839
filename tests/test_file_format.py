"""Formats are known by their content."""

from jpegs import photo, save

from pipeline.file_format import sniff_format


def test_formats_are_known_by_content() -> None:
    rgb = photo(20, 20)
    for name in ("png", "webp", "gif", "bmp", "tiff", "jpeg2000", "jpeg", "avif"):
        assert sniff_format(save(rgb, name)) == name
    assert sniff_format(b"") == "empty"
    assert sniff_format(b"\n <!DOCTYPE HTML>") == "html"
    assert sniff_format(b"\xef\xbb\xbf<?xml version") == "xml"
    assert sniff_format(b"PAR1....") == "parquet"
    assert sniff_format(bytes(257) + b"ustar\0") == "tar"
    assert sniff_format(b"\x1f\x8b\x08") == "gzip"
    assert sniff_format(b"anything else") is None


def test_the_brands_of_a_picture_tell_its_coding() -> None:
    def ftyp(*brands: bytes) -> bytes:
        body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
        return (4 + len(body)).to_bytes(4, "big") + body + b"\0\0\1\0meta"

    for brands, name in (
        ((b"mif1", b"mif1", b"heic"), "heif"),
        ((b"msf1", b"hevc"), "heif"),
        ((b"heic", b"mif1"), "heif"),
        ((b"mif1", b"avif", b"miaf"), "avif"),
        ((b"avis", b"msf1"), "avif"),
        ((b"isom", b"avc1"), "mp4"),
        ((b"qt  ",), "mp4"),
    ):
        assert sniff_format(ftyp(*brands)) == name
