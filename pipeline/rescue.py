"""Finds the bad image in a batch that the decoder refuses, so that the others are kept.

One bad image fails its whole DALI batch. DALI names the first bad sample (`Failed to decode sample
#k`), or only gives an error code (`nvImageCodec failure: '#3'`). A named sample is only a hint for
splitting the batch: an image is rejected only when it fails alone. Even then the machine may be at
fault, since DALI raises the first message for any error. So after a rejection, a known-good image
must decode.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TypeVar

import numpy as np

os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # otherwise it prints a line per refused file
from nvidia import nvimgcodec

from pipeline.degrade import compress
from pipeline.jpeg_scan import without_stray_bytes
from pipeline.records import EncodedImage, Status
from pipeline.screening.strict_decode import strict_decode_error

_Item = TypeVar("_Item")

_NAMED_SAMPLE = re.compile(r"Failed to decode sample #(\d+)")
_NO_MEMORY = re.compile("out of memory|allocation failed|can't allocate|bad_alloc", re.IGNORECASE)
_CODEC_FAILURE = re.compile(r"nvImageCodec failure: '#(\d+)'")

# nvimgcodecStatus_t -> its meaning for users.
_CODEC_REASONS = {
    "2": "empty or without dimensions",
    "3": "its header is damaged",
    "4": "not an image format the decoder knows",
    "17": "its data is damaged",
}
# Those that no image can cause: not initialised, allocation, architecture, something missing, CUDA.
_MACHINE_CODES = frozenset({"1", "5", "7", "10", "11", "15", "16", "21"})


def is_refusal(message: str) -> bool:
    """Whether an error of the DALI graph may be caused by an image, rather than by the machine."""
    if _NO_MEMORY.search(message):
        return False
    if code := _CODEC_FAILURE.search(message):
        return code[1] not in _MACHINE_CODES
    return _NAMED_SAMPLE.search(message) is not None


def admit(image: EncodedImage) -> bool:
    """Whether to decode an image: it is decodable, and DALI reads the same size in its header.

    If DALI does not, the image is rejected: a file may state two sizes, of which only one kept to
    the limits, and the decoder allocates memory for the other. A JPEG with stray bytes between its
    segments loses these bytes, is flagged as damaged and admitted.

    Without this check, a bad header may crash the process: DALI 2.4 divides the headers of a batch
    among threads, and if one in the last share is bad, it frees memory that the other threads still
    use. Errors after the headers only raise an exception.

    Raises RuntimeError when the header of a known-good image is refused too.
    """
    if not image.decodable:
        return False
    size = _header_size(image.data)
    if isinstance(size, RuntimeError) and image.header is not None:
        tidy = without_stray_bytes(image.data)
        if not isinstance(tidy_size := _header_size(tidy), RuntimeError):
            size, image.data = tidy_size, tidy
            image.flag("stray bytes between its segments")
    if isinstance(size, RuntimeError):
        if isinstance(fault := _header_size(_known_good_jpeg()), RuntimeError):
            raise decoder_fault(fault) from size
        status = 17 if image.header is None else 3  # as DALI: of a PNG it reads the whole file
        reject(image, f"nvImageCodec failure: '#{status}'")
        return False
    if size != image.size:
        (height, width), (other_height, other_width) = image.size or (0, 0), size
        image.fail(
            Status.REJECTED,
            f"its header states two sizes, {width}x{height} and {other_width}x{other_height}",
        )
        return False
    return True


def _header_size(data: bytes) -> tuple[int, int] | RuntimeError:
    """(height, width) as DALI's parser reads them, or its error; takes a few microseconds."""
    try:
        stream = nvimgcodec.CodeStream(data)
        return stream.height, stream.width
    except RuntimeError as error:
        return error


@cache
def _known_good_jpeg() -> bytes:
    return known_good_image().data


def known_good_image() -> EncodedImage:
    """A small JPEG that every working decoder decodes. Its row is -1: it is not in any shard."""
    side = 64
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (side, side, 3))
    data = compress(np.ascontiguousarray(ramp), 90)
    return EncodedImage(row=-1, data=data, num_bytes=len(data), size=(side, side))


def decoder_fault(refusal: RuntimeError) -> RuntimeError:
    """The error to raise when the known-good image is refused."""
    return RuntimeError(f"the decoder refuses a known-good image too: {refusal}")


def split_refused(batch: list[_Item], message: str) -> list[list[_Item]]:
    """Split a refused batch of at least two images into the groups to decode next.

    A named image is decoded alone and the rest in halves: one bad image costs about one more batch;
    if all n images are bad, O(n log n) decodes.
    """
    if (named := _NAMED_SAMPLE.search(message)) and int(named[1]) < len(batch):
        index = int(named[1])
        rest = batch[:index] + batch[index + 1 :]
        groups = [[batch[index]], rest[: len(rest) // 2], rest[len(rest) // 2 :]]
    else:
        groups = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return [group for group in groups if group]


def reject(image: EncodedImage, message: str) -> None:
    """Reject an image that the decoder refused on its own, with the most precise reason known."""
    image.fail(Status.REJECTED, f"cannot be decoded: {_reason(image, message)}")


def _reason(image: EncodedImage, message: str) -> str:
    if image.header is not None and (reason := strict_decode_error(image.data)):
        return reason
    if image.header is not None and image.header.lossless:
        return "a lossless JPEG that is not RGB, of which libjpeg-turbo converts no colours"
    if code := _CODEC_FAILURE.search(message):
        return _CODEC_REASONS.get(code[1], f"nvImageCodec status {code[1]}")
    return "its data is damaged"
