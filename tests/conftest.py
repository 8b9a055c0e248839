"""Shared fixtures. Tests that use none of them do not wait for PyTorch and DALI to be imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.decode import Decoder

# OpenMP's threads wait for each other by spinning: on a busy machine one is faster than two. Set
# before PyTorch is imported, and passed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def small_decoder() -> Decoder:
    """Whole images as 64x64 pixels, in batches of 4, two batches ahead."""
    from decoding import plain

    from pipeline.decode import DecodeOptions, Decoder

    return Decoder(plain(64, 64), DecodeOptions(batch_size=4, prefetch_batches=2))
