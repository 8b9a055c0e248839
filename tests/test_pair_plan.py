"""What is drawn for a training pair: in the shares that are asked for, and within bounds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.pairs.pair_plan import DegradationMix, PairPlan, random_window, training_plan


def test_the_mix_has_its_shares() -> None:
    rng = np.random.default_rng(0)
    mix = DegradationMix(clean_share=0.2, high_quality_share=0.1, multiple_share=0.3)
    plans = [training_plan(rng, (300, 400), mix, crop=224) for _ in range(6000)]
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


NOTHING_ELSE = {"clean_share": 0.0, "high_quality_share": 0.0, "multiple_share": 0.0}


def drawn(**shares: float) -> list[PairPlan]:
    """Plans of a mix of these shares alone."""
    rng, mix = np.random.default_rng(0), DegradationMix(**(NOTHING_ELSE | shares))  # type: ignore
    return [training_plan(rng, (300, 400), mix, crop=224) for _ in range(3000)]


def test_every_quality_of_a_range_is_drawn_and_no_other() -> None:
    on_full = {"imagenet_c_share": 0.0}
    high = Counter(p.full_qualities for p in drawn(high_quality_share=1, **on_full))
    assert set(high) == {(quality,) for quality in range(75, 96)}
    any_quality = Counter(p.full_qualities for p in drawn(paper_share=0, **on_full))
    assert set(any_quality) == {(quality,) for quality in range(5, 96)}
    papers = Counter(p.full_qualities for p in drawn(paper_share=1, **on_full))
    assert set(papers) == {(7,), (10,), (15,), (18,), (25,)}
    for counts in (high, papers):
        assert max(counts.values()) < 1.6 * min(counts.values())  # as often as each other


def test_several_compressions_are_two_to_the_most_and_cut_anywhere() -> None:
    several = drawn(multiple_share=1, max_compressions=4)
    cuts = Counter((len(p.full_qualities), len(p.crop_qualities)) for p in several)
    whole = {pair for n in (2, 3, 4) for pair in ((n, 0), (0, n))}
    assert set(cuts) == whole | {(1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (3, 1)}
    times = Counter(a + b for a, b in cuts.elements())
    assert max(times.values()) < 1.2 * min(times.values())


def test_a_mix_is_varied_by_each_of_its_changes() -> None:
    assert not DegradationMix().varied
    for share in ("recoloured_share", "upside_down_share", "reduced_share"):
        assert DegradationMix(**{share: 0.1}).varied  # type: ignore[arg-type]


def test_other_pictures_are_compressed_as_those_there_are() -> None:
    plain = DegradationMix()
    varied = DegradationMix(recoloured_share=0.7, upside_down_share=0.3)
    pairs = [
        [
            training_plan(np.random.default_rng(seed), (300, 400), mix, crop=224)
            for mix in (plain, varied)
        ]
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
    assert np.all(np.abs(colours.mean(0) - [0, 1, 1, 1]) <= [3, 0.05, 0.03, 0.03])
    assert np.all(np.ptp(colours, axis=0) >= [75, 1.1, 0.55, 0.55])
    assert np.all(np.abs(colours - [0, 1, 1, 1]) <= [40, 0.6, 0.3, 0.3])


def test_windows_lie_anywhere_in_any_shape_and_half_are_mirrored() -> None:
    plans = drawn(paper_share=1)
    assert np.mean([plan.mirrored for plan in plans]) == pytest.approx(0.5, abs=0.03)
    top, left, bottom, right = np.array([plan.window for plan in plans], np.float64).T
    height, width = bottom - top, right - left
    for place, room in ((top, 300 - height), (left, 400 - width)):
        np.testing.assert_allclose(
            np.quantile(place / room, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04
        )
    shape = np.log(width / height) / np.log(4 / 3)
    assert np.abs(shape).max() <= 1 + 1e-5
    assert np.ptp(shape) > 1.95
    area = width * height / (300 * 400)
    assert area.min() < 0.37


def test_a_long_picture_gives_its_centre() -> None:
    window = random_window(np.random.default_rng(0), (10, 1000), 0.9)
    np.testing.assert_array_equal(window, [0, 495, 10, 505])


def test_reduced_pictures_are_somewhat_larger_than_the_window() -> None:
    mix = DegradationMix(reduced_share=0.8)
    plans = [
        (
            training_plan(np.random.default_rng(seed), (300, 400), mix, crop=128),
            training_plan(np.random.default_rng(seed), (300, 400), DegradationMix(), crop=128),
        )
        for seed in range(2000)
    ]
    reduced = [(plan, before) for plan, before in plans if plan.reduced_to is not None]
    assert len(reduced) / 2000 == pytest.approx(0.8, abs=0.04)
    shorter = [min(plan.reduced_to or ()) for plan, _ in reduced]
    assert (min(shorter), max(shorter)) == pytest.approx((1.25 * 128, 1.75 * 128), abs=1.5)
    for plan, before in reduced:
        height, width = plan.reduced_to or (0, 0)
        assert width / height == pytest.approx(4 / 3, abs=0.02)
        top, left, bottom, right = plan.window
        assert 0 <= top < bottom <= height + 0.01
        assert 0 <= left < right <= width + 0.01
        assert (bottom - top) * (right - left) >= 0.59 * height * width
        same = ("mirrored", "full_qualities", "crop_qualities")
        assert [getattr(before, n) for n in same] == [getattr(plan, n) for n in same]


@pytest.mark.parametrize(("side", "reduced"), [(170, False), (172, True), (2000, True)])
def test_a_picture_that_would_get_too_small_stays(side: int, reduced: bool) -> None:
    mix = DegradationMix(reduced_share=1.0)
    plan = training_plan(np.random.default_rng(0), (side, side), mix, crop=128)
    assert (plan.reduced_to is not None) == reduced
    assert max(plan.window) <= (max(plan.reduced_to) if plan.reduced_to else side) + 0.01


def test_thumbnails_are_small_and_compressed_as_a_whole() -> None:
    mix = DegradationMix(thumbnail_share=0.4)
    plans = [training_plan(np.random.default_rng(k), (300, 400), mix, crop=64) for k in range(2000)]
    made = [plan for plan in plans if plan.reduced_to is not None]
    assert len(made) / 2000 == pytest.approx(0.4, abs=0.04)
    shorter = np.array([min(plan.reduced_to or ()) for plan in made])
    assert (shorter.min(), shorter.max()) == pytest.approx((48, 224), abs=3)
    assert np.median(shorter) == pytest.approx((48 * 224) ** 0.5, rel=0.1)
    for plan in made:
        height, width = plan.reduced_to or (0, 0)
        assert width / height == pytest.approx(4 / 3, abs=0.03)
        assert plan.crop_qualities == ()
        assert plan.window[2] <= height + 0.01
        assert plan.window[3] <= width + 0.01
    assert any(len(plan.full_qualities) == mix.max_compressions for plan in made)
    always = replace(mix, thumbnail_share=1)
    tiny = training_plan(np.random.default_rng(0), (20, 30), always, crop=8)
    assert tiny.reduced_to == (20, 30)


def test_what_is_compressed_before_its_window_is_resampled_is_enlarged() -> None:
    window = np.array([10, 20, 42, 52], np.float32)
    assert PairPlan(window).enlargement(64) == 1
    assert PairPlan(window, full_qualities=(10,)).enlargement(256) == 3
    assert PairPlan(window).enlargement(16) == 0  # reduced
    assert PairPlan(window, full_qualities=(10,), crop_qualities=(10,)).enlargement(64) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thumbnail_share": -0.1}, "thumbnail_share -0.1 is not between 0 and 1"),
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
