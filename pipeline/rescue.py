"""What happens when the decoder refuses a batch: the bad image is found, the others are kept.

One bad image fails its whole DALI batch. DALI names the first one (`Failed to decode sample #k`)
or does not (`nvImageCodec failure: '#3'`, where 3 is an error code); what it names is a hint for
splitting the batch, never taken as proof: an image is given up only when it fails alone. Both
messages also stand for what the machine did (DALI leaves the codec's status out of the first), so
that a sound picture has to decode after it.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TypeVar

import numpy as np

os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # it would print a line for each refused file
from nvidia import nvimgcodec

from pipeline.degrade import compress
from pipeline.jpeg_scan import without_stray_bytes
from pipeline.records import EncodedImage, Status
from pipeline.screening.strict_decode import strict_decode_error

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
# Those that no picture can cause: not initialised, allocation, architecture, something missing,
# CUDA itself.
_MACHINE_CODES = frozenset({"1", "5", "7", "10", "11", "15", "16", "21"})


def is_refusal(message: str) -> bool:
    """Whether an error of the DALI graph may blame the input rather than the machine."""
    if "out of memory" in message.lower():
        return False
    if code := _CODEC_FAILURE.search(message):
        return code[1] not in _MACHINE_CODES
    return _NAMED_SAMPLE.search(message) is not None


def passes_header_check(image: EncodedImage) -> bool:
    """Whether DALI accepts the header of a decodable image; one that it refuses is given up here.

    A JPEG with stray bytes between its segments loses those bytes, is flagged and accepted.

    DALI 2.4 reads the headers of a batch in several threads, each a share of them. If it refuses
    one in the last share, it does not wait for the other threads, which go on with memory that has
    been freed: the process dies. What it refuses after the headers costs only an exception.

    Raises RuntimeError when a sound picture's header is refused too.
    """
    if not image.decodable or (refusal := _header_refusal(image.data or b"")) is None:
        return True
    if image.header is not None:
        tidy = without_stray_bytes(image.data or b"")
        if _header_refusal(tidy) is None:
            image.data = tidy
            image.flag("stray bytes between its segments")
            return True
    if (of_sound := _header_refusal(_sound_jpeg())) is not None:
        raise machine_fault(of_sound) from refusal
    status = 17 if image.header is None else 3  # as DALI has it: a PNG's parser reads all its parts
    give_up(image, f"nvImageCodec failure: '#{status}'")
    return False


def _header_refusal(data: bytes) -> RuntimeError | None:
    """What the parser that DALI uses has against a file; a few microseconds."""
    try:
        nvimgcodec.CodeStream(data).height  # noqa: B018  it reads the header when it is asked
    except RuntimeError as error:
        return error
    return None


@cache
def _sound_jpeg() -> bytes:
    return sound_picture().data or b""


def sound_picture() -> EncodedImage:
    """A small JPEG that every working decoder decodes; no image of a shard (its row is -1)."""
    side = 64
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (side, side, 3))
    data = compress(np.ascontiguousarray(ramp), 90)
    return EncodedImage(row=-1, data=data, num_bytes=len(data), size=(side, side))


def machine_fault(refusal: RuntimeError) -> RuntimeError:
    """What to raise when a sound picture is refused."""
    return RuntimeError(f"the decoder refuses sound pictures too: {refusal}")


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
