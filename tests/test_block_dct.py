"""All ways to the DCT against scipy; the one for CUDA runs on a CPU as well."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from decoding import scipy_dct
from jpegs import photo

from afd_model.dct import block_dct
from pipeline.pixels.block_dct import BlockDct, BlockDctByOneProduct

TOLERANCE = 2e-3  # float32, whose places near 1000 are 6e-5 apart: sums of 192

Transform = BlockDct | BlockDctByOneProduct


def without_numba(side: int) -> BlockDct:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.pixels.block_dct.has_numba", lambda: False)
        return BlockDct(side)


WAYS: dict[str, Callable[[int], Transform]] = {
    "CPU": BlockDct,
    "CPU without Numba": without_numba,
    "CUDA": lambda side: BlockDctByOneProduct(side, torch.device("cpu")),
}
make = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())


@make
@pytest.mark.parametrize(("side", "batch"), [(224, 4), (224, 7), (160, 1), (64, 5), (8, 9), (8, 0)])
def test_it_is_scipys_dct_of_jfif_ycbcr(
    make: Callable[[int], Transform], side: int, batch: int
) -> None:
    rgb = np.stack([photo(side, side, seed) for seed in range(batch)] or [photo(8, 8)])[:batch]
    found = make(side)(torch.from_numpy(rgb)).numpy()
    assert found.shape == (batch, 192, side // 8, side // 8)
    assert found.dtype == np.float32
    for image, coefficients in zip(rgb, found, strict=True):
        assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE


@make
def test_extremes_and_noise(make: Callable[[int], Transform]) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 2, (6, 64, 64, 3), dtype=np.uint8) * 255  # the largest coefficients
    rgb[0], rgb[1] = 0, 255
    found = make(64)(torch.from_numpy(rgb)).numpy()
    for image, coefficients in zip(rgb, found, strict=True):
        assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE
    # Luma's DC: 8 x (0 - 128), and 8 x (255 - 128); a gray picture has nothing else.
    np.testing.assert_allclose(found[:2, 0, 0, 0], [-1024, 1016], atol=TOLERANCE)
    assert np.abs(found[:2, 1:]).max() <= TOLERANCE


@make
def test_batches_of_other_sizes_leave_nothing_behind_in_the_buffers(
    make: Callable[[int], Transform],
) -> None:
    rgb = np.stack([photo(64, 64, seed) for seed in range(9)])
    transform = make(64)
    for batch in (rgb[:9], rgb[:2], rgb[3:9], rgb[5:6]):
        found = transform(torch.from_numpy(batch.copy())).numpy()
        assert len(found) == len(batch)
        for image, coefficients in zip(batch, found, strict=True):
            assert np.abs(coefficients - scipy_dct(image)).max() <= TOLERANCE


def test_a_result_is_overwritten_only_where_the_caller_says_so() -> None:
    transform = BlockDct(64)
    first, second = (torch.from_numpy(photo(64, 64, seed)[None].copy()) for seed in (1, 2))
    kept = transform(first)
    expected = kept.clone()
    out = torch.empty_like(kept)
    assert transform(second, out=out) is out
    assert torch.equal(kept, expected)
    assert torch.equal(out, transform(second))


def test_several_threads_give_what_one_does() -> None:
    rgb = torch.from_numpy(np.stack([photo(64, 64, seed) for seed in range(5)]))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(BlockDct(64)(rgb))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_the_models_own_reference_agrees() -> None:
    rgb = torch.from_numpy(photo(96, 96)[None].copy())
    reference = block_dct(rgb.permute(0, 3, 1, 2).double())
    for way in WAYS.values():
        assert (way(96)(rgb) - reference).abs().max() <= TOLERANCE


def test_for_cuda_the_result_lies_as_the_model_takes_it() -> None:
    rgb = torch.from_numpy(np.stack([photo(64, 64, seed) for seed in range(3)]))
    transform = WAYS["CUDA"](64)
    found = transform(rgb)
    assert found.is_contiguous(memory_format=torch.channels_last)
    buffer = torch.full((5, 192, 8, 8), 7.0).contiguous(memory_format=torch.channels_last)
    written = transform(rgb, out=buffer[:3])
    assert written.data_ptr() == buffer.data_ptr()
    assert torch.equal(written, found)
    assert (buffer[3:] == 7).all()


@pytest.mark.parametrize(("side", "count"), [(64, 5), (64, 3), (64, 1), (8, 2), (8, 1)])
def test_cudas_way_writes_to_a_part_of_what_it_is_given(side: int, count: int) -> None:
    """As the decoder keeps it: for its largest batch, channels_last."""
    blocks = side // 8
    whole = torch.empty((5, 192, blocks, blocks), memory_format=torch.channels_last).fill_(7)
    rgb = torch.from_numpy(np.stack([photo(side, side, seed) for seed in range(count)]))
    transform = BlockDctByOneProduct(side, torch.device("cpu"))
    transform(rgb, out=whole[:count])
    torch.testing.assert_close(whole[:count], transform(rgb), rtol=0, atol=0)
    assert (whole[count:] == 7).all()
