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
from jpegs import encode, photo, save

from afd_model.dct import block_dct
from afd_model.pairs import PairBatch
from pipeline.decode import DecodeOptions
from pipeline.decode_training import PairDecoder
from pipeline.degrade import degrade
from pipeline.geometry import Geometry, crop_window
from pipeline.pair_plan import (
    VALIDATION_CONDITIONS,
    Colours,
    DegradationMix,
    PairPlan,
    random_window,
    training_plan,
    validation_plan,
)
from pipeline.recompress import open_rgb
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.run_ahead import run_ahead
from pipeline.sources import list_images
from pipeline.training_data import PairLoader, Rank, images_of_step, split_held_out

SIDE = 64
GEOMETRY = Geometry(72, SIDE, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIONS = DecodeOptions(batch_size=4, num_threads=1, prefetch_batches=1)
FULL_SIZE = np.array([0, 0, SIDE, SIDE], np.float32)
MIX = DegradationMix()


def encoded(data: bytes, size: tuple[int, int]) -> EncodedImage:
    return EncodedImage(0, data, size=size)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    for k in range(6):
        (tmp_path / f"{k}.jpg").write_bytes(encode(photo(80 + 9 * k, 120 - 7 * k, k), quality=92))
    return list(list_images(str(tmp_path)))


def loader(refs: list[ImageRef], mix: DegradationMix = MIX, **changes: object) -> PairLoader:
    return PairLoader(refs, GEOMETRY, OPTIONS, mix, seed=3, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("qualities", [(5,), (7,), (25,), (50,), (95,), (10, 85), (60, 12, 33)])
@pytest.mark.parametrize("shape", [(64, 64), (75, 131), (33, 40)])
def test_dalis_distortion_is_libjpeg_turbos_result(
    shape: tuple[int, int], qualities: tuple[int, ...]
) -> None:
    """On the window and on the whole picture, bit for bit (4:2:0, odd sizes too)."""
    jpeg = encode(photo(*shape), quality=95)
    rgb = open_rgb(jpeg)
    whole = np.array([0, 0, *shape], np.float32)
    decoder = PairDecoder(GEOMETRY, OPTIONS, most_compressions=3)
    plans = [
        PairPlan(whole, full_qualities=qualities),
        PairPlan(whole, crop_qualities=qualities),
        PairPlan(whole),
    ]
    clean, degraded, kept = decoder.decode([encoded(jpeg, shape) for _ in plans], plans)
    assert kept == [0, 1, 2]
    np.testing.assert_array_equal(degraded[1], degrade(clean[1].numpy(), qualities))
    np.testing.assert_array_equal(degraded[2], clean[2])
    # Resampled at its own size, DALI gives the picture back, so the whole path can be compared.
    if shape == (SIDE, SIDE):
        np.testing.assert_array_equal(clean[0], rgb)
        np.testing.assert_array_equal(degraded[0], degrade(rgb, qualities))
    again = decoder.decode(
        [encoded(save(degrade(rgb, qualities), "PNG"), shape)], [PairPlan(whole)]
    )[0]
    np.testing.assert_array_equal(degraded[0], again[0])


def test_clean_and_degraded_show_the_same_window() -> None:
    """At quality 100 the two differ by rounding alone; moved or mirrored apart they would not."""
    jpeg, size = encode(photo(90, 140), quality=95), (90, 140)
    rng = np.random.default_rng(0)
    windows = [random_window(rng, size, 0.3) for _ in range(4)]
    decoder = PairDecoder(GEOMETRY, OPTIONS, most_compressions=2)
    for where in ("full_qualities", "crop_qualities"):
        plans = [
            replace(PairPlan(w, mirrored=bool(k % 2)), **{where: (100,)})
            for k, w in enumerate(windows)
        ]
        clean, degraded, _ = decoder.decode([encoded(jpeg, size)] * 4, plans)
        difference = (clean.int() - degraded.int()).abs().float().mean((1, 2, 3))
        assert difference.max() < 3
        moved = (clean.int() - clean.roll(4, dims=2).int()).abs().float().mean((1, 2, 3))
        assert moved.min() > 2 * difference.max()
    plain = decoder.decode([encoded(jpeg, size)], [PairPlan(windows[1])])[0]
    mirrored = decoder.decode([encoded(jpeg, size)], [PairPlan(windows[1], mirrored=True)])[0]
    assert torch.equal(plain.flip(2), mirrored)


def test_pictures_are_changed_before_they_are_compressed() -> None:
    rgb = photo(SIDE, SIDE)
    png, size = save(rgb, "PNG"), (SIDE, SIDE)
    plans = [
        PairPlan(FULL_SIZE, full_qualities=(20,)),
        PairPlan(FULL_SIZE, full_qualities=(20,), upside_down=True),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(saturation=0.0)),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(brightness=0.5)),
    ]
    decoder = PairDecoder(GEOMETRY, OPTIONS, most_compressions=1, varied=True)
    clean, degraded, _ = decoder.decode([encoded(png, size)] * 4, plans)
    np.testing.assert_array_equal(clean[0], rgb)  # what is not to be changed is not
    np.testing.assert_array_equal(clean[1], rgb[::-1])
    colourfulness = clean.int().amax(3) - clean.int().amin(3)
    assert colourfulness[0].float().mean() > 20
    assert colourfulness[2].max() <= 1
    lightness = clean.float().mean((1, 2, 3)).tolist()
    assert lightness[3] == pytest.approx(lightness[0] / 2, rel=0.02)
    for picture, compressed in zip(clean.numpy(), degraded.numpy(), strict=True):
        np.testing.assert_array_equal(compressed, degrade(picture, (20,)))


def test_a_refused_image_costs_its_own_place_alone() -> None:
    jpeg, size = encode(photo(64, 64)), (64, 64)
    images = [encoded(jpeg, size) for _ in range(4)]
    images[2].data = jpeg[:300] + bytes(40) + b"\xff\xd9"
    images[3].data = b"not a picture at all"
    decoder = PairDecoder(GEOMETRY, OPTIONS, most_compressions=2)
    _, _, kept = decoder.decode(images, [PairPlan(FULL_SIZE)] * 4)
    assert 3 not in kept
    assert sorted(kept)[:2] == [0, 1]
    assert images[3].status is Status.REJECTED
    assert images[0].status is Status.OK


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
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 4 images of step 0"):
        next(iter(data.training()))


def test_held_out_images_are_whole_windows_under_every_condition(refs: list[ImageRef]) -> None:
    (first, second) = loader(refs).held_out()
    assert torch.cat([first.condition, second.condition]).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(first.clean[0], first.degraded[0])
    assert first.quality.tolist() == [92, 7, 85, 10]
    plan = validation_plan(13, (100, 200), GEOMETRY)
    assert VALIDATION_CONDITIONS[plan.condition] == VALIDATION_CONDITIONS[2]
    np.testing.assert_array_equal(plan.window, crop_window((100, 200), GEOMETRY))


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


def test_the_mix_has_its_shares() -> None:
    rng = np.random.default_rng(0)
    mix = DegradationMix(clean_share=0.2, high_quality_share=0.1, multiple_share=0.3)
    plans = [training_plan(rng, (300, 400), mix) for _ in range(6000)]
    counts = Counter(
        "clean"
        if p.quality is None
        else "many"
        if len(p.full_qualities + p.crop_qualities) > 2
        else "once or twice"
        for p in plans
    )
    assert counts["clean"] / 6000 == pytest.approx(0.2, abs=0.02)
    assert counts["many"] / 6000 == pytest.approx(0.3 * 3 / 4, abs=0.02)
    many = [p for p in plans if len(p.full_qualities + p.crop_qualities) > 2]
    on_one = (sum(not p.full_qualities for p in many), sum(not p.crop_qualities for p in many))
    assert on_one == pytest.approx((len(many) / 3,) * 2, rel=0.15)
    once = [p for p in plans if len(p.full_qualities) == 1 and not p.crop_qualities]
    twice = [p for p in plans if len(p.crop_qualities) == 2 and p.crop_qualities[1] == 85]
    assert len(once) == pytest.approx(len(twice), rel=0.15)
    paper = [p for p in once if p.full_qualities[0] in (7, 10, 15, 18, 25)]
    assert 0.45 < len(paper) / len(once) < 0.65  # 0.6 of those not drawn at high quality
    for plan in plans:
        top, left, bottom, right = plan.window
        assert 0 <= top < bottom <= 300.01
        assert 0 <= left < right <= 400.01
        assert (bottom - top) * (right - left) >= 0.34 * 300 * 400


def test_other_pictures_are_compressed_as_those_there_are() -> None:
    plain = DegradationMix()
    varied = DegradationMix(recoloured_share=0.7, upside_down_share=0.3)
    pairs = [
        [training_plan(np.random.default_rng(seed), (300, 400), mix) for mix in (plain, varied)]
        for seed in range(2000)
    ]
    for before, after in pairs:
        assert before.upside_down is False
        assert before.colours is None
        np.testing.assert_array_equal(before.window, after.window)
        same = ("mirrored", "full_qualities", "crop_qualities")
        assert [getattr(before, n) for n in same] == [getattr(after, n) for n in same]
    assert sum(p.upside_down for _, p in pairs) / 2000 == pytest.approx(0.3, abs=0.04)
    colours = np.array([p.colours for _, p in pairs if p.colours is not None])
    assert len(colours) / 2000 == pytest.approx(0.7, abs=0.04)
    assert np.allclose(colours.mean(0), [0, 1, 1, 1], atol=2)
    assert np.all(np.abs(colours - [0, 1, 1, 1]) <= [40, 0.6, 0.3, 0.3])


def test_a_long_picture_gives_its_centre() -> None:
    window = random_window(np.random.default_rng(0), (10, 1000), 0.9)
    np.testing.assert_array_equal(window, [0, 495, 10, 505])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean_share": 1.2}, "clean_share 1.2 is not between 0 and 1"),
        ({"clean_share": 0.5, "multiple_share": 0.5}, "is 1.08: at most 1"),
        ({"max_compressions": 1}, "max_compressions 1"),
        ({"min_area": 0.0}, "min_area 0.0"),
        ({"recoloured_share": 1.5}, "recoloured_share 1.5 is not between 0 and 1"),
    ],
)
def test_mixes_that_cannot_be_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DegradationMix(**change)  # type: ignore[arg-type]


def test_run_ahead_keeps_order_raises_in_place_and_ends() -> None:
    made = []

    def items() -> Iterator[int]:
        for k in range(100):
            made.append(k)
            if k == 50:
                raise OSError("at 50")
            yield k

    ahead = run_ahead(items(), 2)
    assert list(itertools.islice(ahead, 10)) == list(range(10))
    ahead.close()
    assert len(made) <= 14
    ahead = run_ahead(items(), 3)
    assert list(itertools.islice(ahead, 50)) == list(range(50))
    with pytest.raises(OSError, match="at 50"):
        next(ahead)
    assert list(run_ahead(iter(range(5)), 1)) == list(range(5))
