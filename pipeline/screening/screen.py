"""Checks an image's encoded bytes before they are decoded: format, header, size and integrity."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL.Image import DecompressionBombError
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.error_text import one_line
from pipeline.file_format import sniff_format
from pipeline.jpeg_scan import END_OF_IMAGE, START_OF_IMAGE, JpegFormatError, scan_jpeg
from pipeline.records import EncodedImage, Status
from pipeline.screening.jpeg_integrity import IntegrityLevel, check_integrity, readable_part
from pipeline.screening.png_chunks import picture_chunks

# Encoders write about ten scans. For each, the decoder goes over the whole image.
REJECTED_ABOVE_SCANS = 100
# Web crawls also save these as .jpg, and DALI decodes them to the same pixels as PIL. Opened by
# `Image.open`, they would have to keep to a limit of Pillow's own too, as WebPs have to anyway.
_OTHER_FORMATS = {"png": PngImageFile, "webp": WebPImageFile}


@dataclass(frozen=True, slots=True)
class Limits:
    """max_pixels: images with a larger width x height are rejected before memory is allocated.

    integrity: how thoroughly to look for silent corruption, see `check_integrity`.
    """

    max_pixels: int = 100_000_000
    integrity: IntegrityLevel = "fast"

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels {self.max_pixels} is not positive: use at least 1")


def screen(image: EncodedImage, limits: Limits) -> None:
    """Read the header of `image.data`; set size, header, status and error in place.

    A damaged JPEG is cut to the part that libjpeg can read, see `readable_part`. A PNG loses the
    chunks that do not affect its pixels, see `picture_chunks`.
    """
    if not image.decodable:  # it could not be read
        return
    data = image.data
    image.num_bytes = len(data)
    if data.startswith(START_OF_IMAGE):
        _screen_jpeg(image, data, limits)
    else:
        _screen_other(image, data, limits)


def _screen_jpeg(image: EncodedImage, data: bytes, limits: Limits) -> None:
    try:
        header = scan_jpeg(data)
    except JpegFormatError as error:
        image.fail(Status.REJECTED, str(error))
        return
    image.header, image.size = header, (header.height, header.width)
    if header.precision_bits != 8:
        image.fail(
            Status.REJECTED, f"{header.precision_bits}-bit JPEG: only 8-bit JPEGs are supported"
        )
    elif header.scans > REJECTED_ABOVE_SCANS:
        image.fail(
            Status.REJECTED,
            f"JPEG of {header.scans} scans: over the limit of {REJECTED_ABOVE_SCANS}, since each"
            " costs as much time as a whole image",
        )
    elif len(data) <= header.scan_offset + len(END_OF_IMAGE):
        image.fail(Status.REJECTED, "header only: the JPEG ends before its image data")
    elif _check_pixels(image, limits):
        if reason := check_integrity(data, header, limits.integrity):
            image.flag(reason)
        if reason or limits.integrity == "off":
            image.data = readable_part(data, header)


def _screen_other(image: EncodedImage, data: bytes, limits: Limits) -> None:
    found = sniff_format(data)
    open_image = _OTHER_FORMATS.get(found or "")
    if open_image is None:
        image.fail(Status.REJECTED, _not_an_image(found, data))
        return
    if found == "png":
        image.data = data = picture_chunks(data)
    try:
        picture = open_image(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError) as error:
        image.fail(Status.REJECTED, f"{found} header is damaged: {one_line(error)}")
        return
    except DecompressionBombError as error:
        image.fail(Status.REJECTED, f"{found} is too large: {one_line(error)}")
        return
    image.size = (picture.height, picture.width)
    _check_pixels(image, limits)


def _check_pixels(image: EncodedImage, limits: Limits) -> bool:
    """Reject an image with too many pixels; False if it was rejected."""
    height, width = image.size or (0, 0)
    if width * height <= limits.max_pixels:
        return True
    image.fail(
        Status.REJECTED,
        f"{width}x{height} is {width * height} pixels, over --max-pixels {limits.max_pixels}",
    )
    return False


def _not_an_image(found: str | None, data: bytes) -> str:
    if not data:
        return "empty file (0 bytes)"
    if found == "parquet":  # a folder of them, as Spark writes a table, is read as a collection
        return (
            "not a JPEG, PNG or WebP: the content is parquet; a manifest has to be INPUT itself,"
            " as one file"
        )
    if found is not None:
        return f"not a JPEG, PNG or WebP: the content is {found}"
    return f"not an image: starts with {data[:12]!r}"
