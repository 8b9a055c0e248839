"""Pairs for training: aligned, repeatable, sharded without loss."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jpegs import encode, photo, refused

from afd_model.dct import block_dct
from afd_model.training.pairs import PairBatch
from pipeline.decode import DecodeOptions
from pipeline.pairs.pair_plan import DegradationMix, validation_plan
from pipeline.pairs.training_data import PairLoader, Rank, images_of_step, split_held_out
from pipeline.pixels.geometry import Geometry, crop_window
from pipeline.records import ImageRef
from pipeline.sources import list_images

SIDE = 64
GEOMETRY = Geometry(72, SIDE, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIONS = DecodeOptions(batch_size=4, num_threads=1, prefetch_batches=1)
FULL_SIZE = np.array([0, 0, SIDE, SIDE], np.float32)
MIX = DegradationMix()


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    for k in range(6):
        (tmp_path / f"{k}.jpg").write_bytes(encode(photo(80 + 9 * k, 120 - 7 * k, k), quality=92))
    return list(list_images(str(tmp_path)))


def loader(refs: list[ImageRef], mix: DegradationMix = MIX, **changes: object) -> PairLoader:
    return PairLoader(refs, GEOMETRY, OPTIONS, mix, seed=3, **changes)  # type: ignore[arg-type]


def test_a_batch_is_what_it_says(refs: list[ImageRef]) -> None:
    data = loader(refs, DegradationMix(clean_share=0, multiple_share=0))
    batch = next(iter(data.training()))
    assert batch.clean.shape == batch.degraded.shape == (4, 3, SIDE, SIDE)
    assert batch.clean.dtype == batch.dct.dtype == batch.quality.dtype == torch.float32
    assert batch.clean.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (GEOMETRY.mean, GEOMETRY.std))
    rgb = (batch.degraded * std + mean) * 255
    torch.testing.assert_close(rgb, rgb.round(), rtol=0, atol=1e-3)
    torch.testing.assert_close(batch.dct, block_dct(rgb), rtol=0, atol=1e-2)
    assert ((batch.quality >= 5) & (batch.quality <= 95)).all()


def test_a_clean_pair_is_equal_and_states_the_files_own_quality(refs: list[ImageRef]) -> None:
    clean = DegradationMix(clean_share=1, high_quality_share=0, multiple_share=0)
    batch = next(iter(loader(refs, clean).training()))
    assert torch.equal(batch.clean, batch.degraded)
    assert batch.quality.tolist() == [92.0] * 4


def test_the_pictures_of_thumbnails_are_enlarged(refs: list[ImageRef]) -> None:
    plain = next(iter(loader(refs).training())).file_facts
    mix = replace(MIX, thumbnail_share=1.0)
    small = next(iter(loader(refs, mix).training())).file_facts
    assert plain.shape == small.shape == (4, 2)
    assert small[:, 1].sum() > plain[:, 1].sum()


def test_a_reduced_picture_is_shown_nearly_whole_and_states_no_quality(tmp_path: Path) -> None:
    half_white = np.zeros((200, 200, 3), np.uint8)
    half_white[:, 100:] = 255
    (tmp_path / "half.jpg").write_bytes(encode(half_white, quality=75))
    mix = DegradationMix(clean_share=1, high_quality_share=0, multiple_share=0, reduced_share=1)
    batch = next(iter(loader(list(list_images(str(tmp_path))), mix).training()))
    assert torch.equal(batch.clean, batch.degraded)
    white = (batch.clean > 0).float().mean((1, 2, 3))
    assert white.min() > 0.2
    assert white.max() < 0.8
    assert batch.quality.isnan().all()


def take(batches: Iterator[PairBatch], count: int) -> list[PairBatch]:
    return list(itertools.islice(batches, count))


def equal(a: PairBatch, b: PairBatch) -> bool:
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))


def test_the_pairs_follow_from_seed_and_step(refs: list[ImageRef]) -> None:
    whole = take(loader(refs).training(), 5)
    resumed = take(loader(refs).training(3), 2)
    assert all(equal(a, b) for a, b in zip(whole[3:], resumed, strict=True))
    other = next(iter(PairLoader(refs, GEOMETRY, OPTIONS, MIX, seed=4).training()))
    assert not equal(whole[0], other)


def test_ranks_deal_out_the_batch_of_one(refs: list[ImageRef]) -> None:
    alone = take(loader(refs).training(), 2)
    half = replace(OPTIONS, batch_size=2)
    ranks = [
        take(PairLoader(refs, GEOMETRY, half, MIX, seed=3, rank=Rank(k, 2)).training(), 2)
        for k in range(2)
    ]
    for step in range(2):
        for k in range(2):
            expected = PairBatch(*(tensor[k::2] for tensor in alone[step]))
            assert equal(ranks[k][step], expected)


@pytest.mark.parametrize(("num_images", "batch_size", "ranks"), [(10, 4, 2), (3, 8, 4), (7, 1, 1)])
def test_every_image_is_dealt_once_an_epoch(num_images: int, batch_size: int, ranks: int) -> None:
    steps = math.lcm(num_images, batch_size) // batch_size
    dealt = [
        pair
        for step in range(steps)
        for k in range(ranks)
        for pair in images_of_step(
            step, num_images=num_images, batch_size=batch_size, seed=0, rank=Rank(k, ranks)
        )
    ]
    epochs = steps * batch_size // num_images
    assert Counter(dealt) == Counter(itertools.product(range(epochs), range(num_images)))


def test_bad_images_are_replaced_in_training_and_left_out_held_out(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    for k in (0, 3):
        (tmp_path / f"{k}.jpg").write_bytes(b"<html>")
    (tmp_path / "1.jpg").unlink()
    data = loader(refs)
    assert [len(batch.clean) for batch in take(data.training(), 4)] == [4] * 4
    assert sum(len(batch.clean) for batch in data.held_out()) == 3
    for path in tmp_path.iterdir():
        path.unlink()
        path.symlink_to("/proc/self/mem")  # which gives EIO, as a disk that fails
    (tmp_path / "1.jpg").symlink_to("/proc/self/mem")
    none = r"none of 6 images in a row can be used for training; .*\.jpg: Input/output error"
    with pytest.raises(ValueError, match=none):
        next(iter(data.training()))


def test_a_batch_without_a_good_image_is_one_of_a_later_step(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    alone = replace(OPTIONS, batch_size=1)
    sound = take(PairLoader(refs, GEOMETRY, alone, MIX, seed=3).training(), 6)
    order = [
        images_of_step(k, num_images=6, batch_size=1, seed=3, rank=Rank())[0][1] for k in range(6)
    ]
    for step in (1, 2):
        Path(refs[order[step]].uri).write_bytes(b"<html>")
    found = take(PairLoader(refs, GEOMETRY, alone, MIX, seed=3).training(), 6)
    expected = [sound[k] for k in (0, 3, 3, 3, 4, 5)]
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


def test_held_out_images_are_whole_windows_under_every_condition(refs: list[ImageRef]) -> None:
    (first, second) = loader(refs).held_out()
    assert torch.cat([first.compressed, second.compressed]).tolist() == [False, *([True] * 5)]
    assert torch.equal(first.clean[0], first.degraded[0])
    assert torch.cat([first.quality, second.quality]).tolist() == [92, 7, 85, 10, 85, 15]
    plan = validation_plan(13, (100, 200), GEOMETRY)
    assert (plan.full_qualities, plan.crop_qualities) == ((), (7, 85))  # the third of eleven
    np.testing.assert_array_equal(plan.window, crop_window((100, 200), GEOMETRY))


def test_what_the_decoder_refuses_does_not_shift_the_others(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(refused()[0])
    (first, _) = loader(refs).held_out()
    assert first.compressed.tolist() == [False, True, True]
    assert first.quality.tolist() == [92, 85, 10]


def test_ranks_share_the_held_out_images(refs: list[ImageRef]) -> None:
    shares = [
        torch.cat([batch.quality for batch in loader(refs, rank=Rank(k, 2)).held_out()]).tolist()
        for k in range(2)
    ]
    assert shares == [[92, 85, 85], [7, 10, 15]]


def test_every_epoch_draws_an_image_anew(refs: list[ImageRef]) -> None:
    batch = next(iter(loader(refs[:1]).training()))  # of four epochs
    assert len({picture.numpy().tobytes() for picture in batch.clean}) == 4


def test_held_out_images_are_chosen_by_name(tmp_path: Path) -> None:
    refs = [ImageRef(f"{tmp_path}/{k}.jpg") for k in range(30)]
    train, held_out = split_held_out(refs, 5)
    assert len(held_out) == 5
    assert sorted(ref.uri for ref in train + held_out) == sorted(ref.uri for ref in refs)
    moved = [ImageRef(f"/else/where/{k}.jpg") for k in reversed(range(30))]
    names = {Path(ref.uri).name for ref in split_held_out(moved, 5)[1]}
    assert names == {Path(ref.uri).name for ref in held_out}
    with pytest.raises(ValueError, match="30 held-out images of 30"):
        split_held_out(refs, 30)
