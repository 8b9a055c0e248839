"""What happens when the decoder refuses a batch: the bad image is found, the others are kept.

One bad image fails its whole DALI batch. DALI names the first one (`Failed to decode sample #k`)
or does not (`nvImageCodec failure: '#3'`, where 3 is an error code); what it names is a hint for
splitting the batch, never taken as proof: an image is given up only when it fails alone.
"""

from __future__ import annotations

import re
from typing import TypeVar

from pipeline.jpeg_integrity import strict_decode_error
from pipeline.records import EncodedImage, Status

_Item = TypeVar("_Item")

_NAMED_SAMPLE = re.compile(r"Failed to decode sample #(\d+)")
_CODEC_FAILURE = re.compile(r"nvImageCodec failure: '#(\d+)'")

# nvimgcodecStatus_t, in the words of a user.
_CODEC_REASONS = {
    "2": "empty or without dimensions",
    "3": "its header is damaged",
    "4": "not an image format the decoder knows",
    "17": "its data is damaged",
}


def is_refusal(message: str) -> bool:
    """Whether an error of the DALI graph blames the input rather than the machine."""
    refused = _NAMED_SAMPLE.search(message) or _CODEC_FAILURE.search(message)
    return refused is not None and "out of memory" not in message.lower()


def split_refused(batch: list[_Item], message: str) -> list[list[_Item]]:
    """The groups to try again after a batch of at least two was refused; their sum is the batch.

    A named image is tried alone and the rest in halves: one bad image costs about one more batch,
    and a batch of nothing but bad images O(n log n) decodes.
    """
    if (named := _NAMED_SAMPLE.search(message)) and int(named[1]) < len(batch):
        index = int(named[1])
        rest = batch[:index] + batch[index + 1 :]
        groups = [[batch[index]], rest[: len(rest) // 2], rest[len(rest) // 2 :]]
    else:
        groups = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return [group for group in groups if group]


def give_up(image: EncodedImage, message: str) -> None:
    """Reject an image that the decoder refused on its own, with the best reason to be had."""
    image.fail(Status.REJECTED, f"cannot be decoded: {_reason(image, message)}")


def _reason(image: EncodedImage, message: str) -> str:
    if image.header is not None and (reason := strict_decode_error(image.data or b"")):
        return reason
    if code := _CODEC_FAILURE.search(message):
        return _CODEC_REASONS.get(code[1], f"nvImageCodec status {code[1]}")
    return "its data is damaged"
