"""Shared fixtures. A DALI pipeline takes long to start on a busy machine: one serves all tests."""

import pytest
from decoding import plain

from pipeline.decode import DecodeOptions, Decoder


@pytest.fixture(scope="session")
def small_decoder() -> Decoder:
    """Whole images as 64x64 pixels, in batches of 4, two batches ahead."""
    return Decoder(plain(64, 64), DecodeOptions(batch_size=4, prefetch_batches=2))
