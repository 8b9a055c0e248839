"""Outcomes per image -> what the drift scores are worth; also as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from afd_model.evaluation.evaluator import Outcome
from afd_model.evaluation.statistics import auroc, places, resampled, spearman
from jobs.evaluation.shares import FEWEST_IMAGES, Share, condition_name, share_cell
from pipeline.pairs.evaluate_images import CLEAN, Condition

_TERMS = (
    "flips: labels with the module that differ from the bare backbone's for the clean picture. θ*:"
    " the angle by which compression turned the stem features. AUROC: of each score, as a predictor"
    " of flips. max-softmax: the confidence; header quality: what the JPEG header says. The lower"
    " one of these is, the more flips it predicts."
)


@dataclass(frozen=True)
class DriftRow:
    """spearman: of drift_angle_deg with the true angle.

    flip_probability, max_softmax, header_quality: AUROC of each as a predictor of label flips.
    flip_gain: AUROC of flip_probability minus that of the better of the other two.
    An AUROC is NaN where labels of fewer than `FEWEST_IMAGES` flip, or those of all but so few.
    """

    protocol: str
    row: str
    images: int
    flips: int
    spearman: Share
    flip_probability: Share
    max_softmax: Share
    header_quality: Share
    flip_gain: Share


def make_drift_table(
    outcomes: Mapping[Condition, Outcome],
    stated_quality: Mapping[Condition, float],
    *,
    resamples: int,
    seed: int,
) -> list[DriftRow]:
    """One row per protocol and quality, and one per protocol for all qualities together.

    stated_quality: per condition, the JPEG quality according to the files' headers.
    """
    clean = outcomes[CLEAN].direct_top[:, 0]
    rows = []
    for protocol in dict.fromkeys(c.protocol for c in outcomes if c.protocol is not None):
        ours = [c for c in outcomes if c.protocol == protocol and c.quality is not None]
        if not ours:  # random compressions alone
            continue
        groups = {condition_name(c): [c] for c in ours} | {"all": ours}
        for name, group in groups.items():
            joined = Outcome.joined([outcomes[c] for c in group])
            flipped = joined.afd_top[:, 0] != np.tile(clean, len(group))
            header = np.repeat([-stated_quality[c] for c in group], len(clean))
            scores = {
                "flip_probability": joined.flip_probability,
                "max_softmax": -joined.afd_confidence,
                "header_quality": header,
            }
            shares = _drift_shares(
                joined, flipped, scores, num_images=len(clean), resamples=resamples, seed=seed
            )
            rows.append(DriftRow(protocol.name, name, len(flipped), int(flipped.sum()), **shares))
    return rows


def _drift_shares(
    outcome: Outcome,
    flipped: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    num_images: int,
    resamples: int,
    seed: int,
) -> dict[str, Share]:
    """The statistics of a `DriftRow`, by name, with intervals from a bootstrap over images.

    outcome, flipped, scores: of all images at the first quality, then of all at the next, and so
        on. An image's outcomes at all qualities are drawn together, because they are not
        independent. scores: the predictors of a flip.
    """
    angle, truth = places(outcome.drift_angle_deg), places(outcome.true_angle_deg)
    few = _few_flips(flipped.reshape(-1, num_images))
    ranked = {
        name: None if few or np.isnan(score).any() else places(score)
        for name, score in scores.items()
    }

    def statistics(at: np.ndarray) -> list[float]:
        areas = {
            name: math.nan if score is None else auroc(score[at], flipped[at])
            for name, score in ranked.items()
        }
        best_baseline = max(areas["max_softmax"], areas["header_quality"])
        gain = areas["flip_probability"] - best_baseline
        return [spearman(angle[at], truth[at]), *areas.values(), gain]

    starts = np.arange(0, len(flipped), num_images)[:, None]
    spreads = resampled(
        lambda images: statistics((starts + images).ravel()),
        num_images,
        resamples=resamples,
        seed=seed,
    )
    points = statistics(np.arange(len(flipped)))
    names = ("spearman", *scores, "flip_gain")
    return dict(zip(names, map(Share.of, points, spreads.T), strict=True))


def _few_flips(flipped: np.ndarray) -> bool:
    """Whether too few images have a flip, or too few a label that stays. (qualities, N) bool."""
    return min(flipped.any(0).sum(), (~flipped).any(0).sum()) < FEWEST_IMAGES


def drift_markdown(rows: Sequence[DriftRow]) -> Iterable[str]:
    for protocol in dict.fromkeys(r.protocol for r in rows):
        yield f"## {protocol}: drift\n"
        yield (
            "| | flips | Spearman with θ* | AUROC flip_probability | max-softmax | header quality"
            " | flip_probability − best baseline |"
        )
        yield "|---|--:|--:|--:|--:|--:|--:|"
        for r in (r for r in rows if r.protocol == protocol):
            shares = (r.spearman, r.flip_probability, r.max_softmax, r.header_quality, r.flip_gain)
            cells = " | ".join(share_cell(s) for s in shares)
            yield f"| {r.row} | {r.flips}/{r.images} | {cells} |"
        yield ""
    if rows:
        yield f"{_TERMS}\n"
