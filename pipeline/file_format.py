"""Detects a file's format from its first bytes."""

_MAGIC = (
    (b"\xff\xd8", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\0\0\0\x0cjP  ", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\xff\x0a", "jpeg-xl"),
    (b"\0\0\0\x0cJXL ", "jpeg-xl"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"PAR1", "parquet"),
    (b"%PDF", "pdf"),
    (b"8BPS", "psd"),
    (b"\0\0\1\0", "ico"),
)
_TEXT_MAGIC = (
    (b"<!doctype html", "html"),
    (b"<html", "html"),
    (b"<head", "html"),
    (b"<svg", "svg"),
    (b"<?xml", "xml"),
    (b"{", "json"),
    (b"version https://git-lfs", "git-lfs pointer"),
)


def sniff_format(data: bytes) -> str | None:
    """The name of a file's format: "jpeg", "png", "html", …, "empty"; None if unknown.

    `screen` and error messages rely on it. It does not check the data after the first bytes.
    """
    if not data:
        return "empty"
    for prefix, name in _MAGIC:
        if data.startswith(prefix):
            return name
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _of_brands(data[8 : min(64, int.from_bytes(data[:4], "big"))])
    if data[257:262] == b"ustar":
        return "tar"
    if not data[:64].strip(b"\0"):
        return "zeros"
    text = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for prefix, name in _TEXT_MAGIC:
        if text.startswith(prefix):
            return name
    return None


def _of_brands(brands: bytes) -> str:
    """The format of a file whose `ftyp` box holds these brands, the major one first.

    A picture may have one of HEIF's own as its major brand, and its coding after that.
    """
    if brands[:2] != b"he" and brands[:4] not in (b"mif1", b"msf1", b"avif", b"avis"):
        return "mp4"
    return "avif" if b"avif" in brands or b"avis" in brands else "heif"
