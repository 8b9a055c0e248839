"""Pictures and JPEGs of every kind for the tests; natural content, nothing downloaded."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import turbojpeg
from PIL import Image

from jobs.demo_corpus import random_crop
from pipeline.degrade import RgbImage

_PILLOW_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def photo(height: int, width: int, seed: int = 0) -> RgbImage:
    """A crop of a real photograph, uint8 (height, width, 3); the same for the same arguments."""
    return random_crop(np.random.default_rng(seed), height, width)[1]


def encode(
    rgb: RgbImage,
    *,
    quality: int = 75,
    subsampling: str = "4:2:0",
    progressive: bool = False,
    mode: Literal["RGB", "L", "CMYK", "YCCK"] = "RGB",
    exif_orientation: int | None = None,
    thumbnail: bool = False,
    **options: Any,
) -> bytes:
    """JPEG through Pillow (YCCK: libjpeg-turbo). `thumbnail`: EXIF holds a whole JPEG with an EOI.

    Other options go to `Image.save` (`restart_marker_rows`, `optimize`, `icc_profile`, …).
    """
    if mode == "YCCK":
        return ycck(rgb, quality=quality, subsampling=subsampling)
    if exif_orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = exif_orientation
        options["exif"] = exif
    image = Image.fromarray(rgb).convert(mode)
    jpeg = save(
        image,
        "JPEG",
        quality=quality,
        subsampling=_PILLOW_SUBSAMPLING[subsampling],
        progressive=progressive,
        **options,
    )
    if not thumbnail:
        return jpeg
    small = save(image.convert("RGB").resize((32, 24)), "JPEG", quality=10)
    return insert_segment(jpeg, 0xE1, b"Exif\0\0" + small)


def save(image: Image.Image | RgbImage, image_format: str, **options: Any) -> bytes:
    """The file that Pillow writes, as bytes."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def ycck(rgb: RgbImage, *, quality: int = 75, subsampling: str = "4:4:4") -> bytes:
    """An Adobe YCCK JPEG with the inverted inks that Adobe's programs write."""
    inks = 255 - np.asarray(Image.fromarray(rgb).convert("CMYK"))
    return turbojpeg.compress(
        np.ascontiguousarray(inks),
        quality,
        getattr(turbojpeg.SAMP, "Y" + subsampling.replace(":", "")),
        colorspace=turbojpeg.CS.YCCK,
        pixelformat=turbojpeg.PF.CMYK,
    )


def arithmetic(rgb: RgbImage, *, quality: int = 75, progressive: bool = False) -> bytes:
    """Arithmetic-coded, 4:2:0."""
    return turbojpeg.compress(
        rgb, quality, turbojpeg.SAMP.Y420, arithmetic=True, progressive=progressive
    )


def lossless(rgb: RgbImage) -> bytes:
    """Lossless JPEG of T.81 (SOF3); it has no quantization table."""
    return turbojpeg.compress(rgb, 75, turbojpeg.SAMP.Y444, lossless=True)


def mpo(rgb: RgbImage) -> bytes:
    """Two pictures in one file, each with its own SOI and EOI, as stereo cameras write."""
    second = Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_180)
    return save(rgb, "MPO", save_all=True, append_images=[second])


def every_kind(rgb: RgbImage) -> dict[str, bytes]:
    """name -> a sound 8-bit JPEG of that kind."""
    return {
        "baseline": encode(rgb),
        "4:2:2": encode(rgb, subsampling="4:2:2"),
        "4:4:4": encode(rgb, subsampling="4:4:4"),
        "progressive": encode(rgb, progressive=True),
        "optimized": encode(rgb, optimize=True),
        "restart": encode(rgb, restart_marker_rows=1),
        "gray": encode(rgb, mode="L"),
        "CMYK": encode(rgb, mode="CMYK"),
        "YCCK": encode(rgb, mode="YCCK"),
        "exif_rotated": encode(rgb, exif_orientation=6),
        "thumbnail": encode(rgb, thumbnail=True),
        "icc": encode(rgb, icc_profile=bytes(range(256)) * 600),
        "mpo": mpo(rgb),
        "arithmetic": arithmetic(rgb),
        "arithmetic_progressive": arithmetic(rgb, progressive=True),
        "lossless": lossless(rgb),
    }


def segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of every segment up to and with the first SOS, by length alone."""
    found: list[tuple[int, int, int]] = []
    pos = 2
    while not found or found[-1][0] != 0xDA:
        end = pos + 2 + int.from_bytes(jpeg[pos + 2 : pos + 4], "big")
        found.append((jpeg[pos + 1], pos, end))
        pos = end
    return found


def insert_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """Put a segment right behind SOI."""
    length = (len(payload) + 2).to_bytes(2, "big")
    return jpeg[:2] + bytes((0xFF, marker)) + length + payload + jpeg[2:]


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """Drop every header segment with this marker (0xDB: DQT, 0xC4: DHT, …)."""
    found = segments(jpeg)
    kept = b"".join(jpeg[start:end] for code, start, end in found if code != marker)
    return jpeg[:2] + kept + jpeg[found[-1][2] :]


def adobe_marker_removed(jpeg: bytes) -> bytes:
    """The same scan without APP14, which is what tells CMYK from YCCK and inverted from not."""
    return without_segment(jpeg, 0xEE)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: its length, type, content and checksum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def with_png_chunks(png: bytes, before: bytes, chunks: bytes) -> bytes:
    """A PNG with more chunks before the first one of a type."""
    at = png.index(before) - 4
    return png[:at] + chunks + png[at:]


def refused() -> list[bytes]:
    """Two files that the screen lets through and DALI refuses; it names the first alone."""
    jpeg = bytearray(encode(photo(60, 80)))
    at = jpeg.index(b"\xff\xc4")
    jpeg[at + 5 : at + 21] = b"\xff" * 16  # a Huffman table of more codes than there can be
    png = save(photo(60, 80), "PNG")
    return [bytes(jpeg), png[: len(png) // 2]]
