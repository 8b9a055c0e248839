"""Outcomes per image -> the paper's tables of accuracy; also as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from afd_model.evaluation.evaluator import TOP_K, Outcome
from afd_model.evaluation.statistics import resampled_means
from jobs.evaluation.folder_classes import UNKNOWN
from jobs.evaluation.shares import FEWEST_IMAGES, Share, condition_name, share_cell
from pipeline.pairs.evaluate_images import CLEAN, Condition

# Whether the direct test and the AFD-Module are right about four images, one of each kind. They are
# added to what is resampled, as in Agresti and Coull's interval: the bootstrap knows no image that
# was not drawn, and of 50 right labels would say that all labels are right.
_UNSEEN = np.array([[1, 0, 1, 0], [1, 0, 0, 1]], np.float64)  # (direct and afd, 4)


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    direct: without the module. afd: with it. gain: afd - direct.
    recovered: gain divided by the loss that compression causes without the module; NaN for clean,
        and where that loss is of fewer than `FEWEST_IMAGES`.
    metric: top1, top5 or agreement (with the backbone's label of the clean picture).
    table: quality (the paper's Table V/R1) or times (Table VI).
    """

    protocol: str
    table: str
    metric: str
    row: str
    images: int
    direct: Share
    afd: Share
    gain: Share
    recovered: Share

    def flat(self) -> dict[str, object]:
        """For Parquet: one column per number."""
        found: dict[str, object] = {}
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                found |= {name: value["value"], f"{name}_low": value["low"]}
                found[f"{name}_high"] = value["high"]
            else:
                found[name] = value
        return found


def correct(outcome: Outcome, metric: str, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(direct, afd), each (N,) bool. truth: (N,) class; for agreement the clean picture's label."""
    k = TOP_K if metric == "top5" else 1
    direct = (outcome.direct_top[:, :k] == truth[:, None]).any(1)
    afd = (outcome.afd_top[:, :k] == truth[:, None]).any(1)
    return direct, afd


def make_tables(
    outcomes: Mapping[Condition, Outcome],
    truth: np.ndarray,
    *,
    trained: bool,
    resamples: int,
    seed: int,
) -> list[TableRow]:
    """Every protocol, table and metric. truth: (N,) class by folder, or `UNKNOWN`.

    trained: whether there is a trained module; without one, AFD columns equal the direct test's.
    Accuracy is measured on the images of known class, and only when these are half or more.
    """
    known = truth != UNKNOWN
    everything = np.ones(len(truth), bool)
    metrics = {"agreement": (outcomes[CLEAN].direct_top[:, 0], everything)}
    if known.mean() >= 0.5:
        metrics = {"top1": (truth, known), "top5": (truth, known)} | metrics
    rows = []
    for protocol in dict.fromkeys(c.protocol for c in outcomes if c.protocol is not None):
        ours = [c for c in outcomes if c.protocol == protocol]
        tables = {
            "quality": [c for c in ours if c.times is None],
            "times": [c for c in ours if c.times is not None],
        }
        for metric, (target, chosen) in metrics.items():
            for table, conditions in tables.items():
                if not conditions:
                    continue
                pairs = [
                    [hits[chosen] for hits in correct(outcomes[c], metric, target)]
                    for c in (*conditions, CLEAN)
                ]
                hits = np.array(pairs, np.float64)
                names = [*map(condition_name, conditions), "mean", "clean"]
                unseen = _unseen(len(hits), agreement=metric == "agreement", trained=trained)
                shares = _shares(hits, unseen, resamples=resamples, seed=seed)
                rows += [
                    TableRow(protocol.name, table, metric, name, int(chosen.sum()), *of_row)
                    for name, of_row in zip(names, shares, strict=True)
                ]
    return rows


def _unseen(rows: int, *, agreement: bool, trained: bool) -> np.ndarray:
    """`_UNSEEN` under each condition, clean last, without what cannot be: (rows, 2, 4)."""
    hits = np.tile(_UNSEEN, (rows, 1, 1))
    if agreement:
        hits[-1, 0] = 1  # the clean picture's label agrees with itself
    if not trained:
        hits[:, 1] = hits[:, 0]
    return hits


def _shares(
    hits: np.ndarray, unseen: np.ndarray, *, resamples: int, seed: int
) -> list[tuple[Share, ...]]:
    """(direct, afd, gain, recovered) of each condition, of their mean, and of the clean pictures.

    hits: (conditions + clean, 2, N), 1 for a correct label, else 0. unseen: as many rows, of images
    that count for the intervals alone.
    """
    rows, _, images = hits.shape
    drawn = np.concatenate([hits, unseen], axis=2).reshape(rows * 2, -1)
    samples = resampled_means(drawn, resamples=resamples, seed=seed).reshape(-1, rows, 2)
    means = hits.mean(2)[None]  # as one more sample: (1, conditions + clean, 2)
    points = _columns(_with_mean(means), least_loss=(FEWEST_IMAGES - 0.5) / images)
    spreads = _columns(_with_mean(samples), least_loss=0)
    return [
        tuple(
            Share.of(float(point[0, k]), spread[:, k])
            for point, spread in zip(points, spreads, strict=True)
        )
        for k in range(rows + 1)
    ]


def _with_mean(samples: np.ndarray) -> np.ndarray:
    """(S, conditions + clean, 2) -> the same with the conditions' mean before clean."""
    mean = samples[:, :-1].mean(1, keepdims=True)
    return np.concatenate([samples[:, :-1], mean, samples[:, -1:]], axis=1)


def _columns(samples: np.ndarray, *, least_loss: float) -> tuple[np.ndarray, ...]:
    """(S, rows, 2), clean last -> direct, afd, gain and recovered, (S, rows) each.

    recovered is NaN unless more than `least_loss` is lost.
    """
    direct, afd = samples[..., 0], samples[..., 1]
    lost = direct[:, -1:] - direct
    with np.errstate(divide="ignore", invalid="ignore"):
        recovered = np.where(lost > least_loss, (afd - direct) / lost, np.nan)
    return direct, afd, afd - direct, recovered


def tables_markdown(rows: Sequence[TableRow]) -> Iterable[str]:
    """Lines of Markdown, shares in percent."""
    titles = {"quality": "one compression", "times": "random compressions"}
    keys = dict.fromkeys((r.protocol, r.table, r.metric) for r in rows)
    for protocol, table, metric in keys:
        ours = [r for r in rows if (r.protocol, r.table, r.metric) == (protocol, table, metric)]
        yield f"## {protocol}, {titles[table]}: {metric}, {ours[0].images} images\n"
        yield "| | direct test | AFD | gain | recovered |"
        yield "|---|--:|--:|--:|--:|"
        for r in ours:
            shares = (r.direct, r.afd, r.gain, r.recovered)
            cells = " | ".join(share_cell(s, scale=100, decimals=1) for s in shares)
            yield f"| {r.row} | {cells} |"
        yield ""
