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
