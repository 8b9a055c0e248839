"""What a disturbed run left behind, held against the plan and against an undisturbed run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

# Batches differ between the runs, and with them the last bits of what a convolution sums up.
_PROBABILITY_TOLERANCE = 1e-4
_FLOATS = ("confidence", "drift_angle_deg", "drift_energy", "flip_probability")


@dataclass(frozen=True)
class Audit:
    """lost, doubled, wrong: images. leftovers: files that should not be there."""

    lost: int
    doubled: int
    wrong: int
    leftovers: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.leftovers)


def audit(output: Path, reference: Path, *, excused: frozenset[str] = frozenset()) -> Audit:
    """Compare the rows of `output` with those of `reference`, an undisturbed run's.

    excused: URIs whose files were taken away; if that came before they were read, their rows say
        `unreadable` and why, and nothing else that is wrong.
    Every row is read; a part that cannot be read raises what the reader raises.
    """
    expected, found = rows(reference), rows(output)
    planned = pl.read_parquet(output / "plan.parquet")["uri"]
    assert sorted(planned) == sorted(expected["uri"]), "the plans differ"
    counts = found["uri"].value_counts()
    doubled = int((counts["count"] - 1).sum())
    lost = len(set(planned) - set(found["uri"]))
    return Audit(lost, doubled, _differing(found, expected, excused), leftovers(output))


def rows(output: Path) -> pl.DataFrame:
    return pl.read_parquet(output / "labels" / "*.parquet").sort("uri")


def leftovers(output: Path) -> tuple[str, ...]:
    """Everything but the plan, the records and the parts."""
    allowed = {"plan.parquet", "run.json", "summary.json"}
    return tuple(
        str(path.relative_to(output))
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in allowed and path.parent.name != "labels"
    )


def _differing(found: pl.DataFrame, expected: pl.DataFrame, excused: frozenset[str]) -> int:
    """Rows whose values differ: exactly but for the floats, and the order of near-equal classes."""
    missed = (
        pl.col("uri").is_in(list(excused))
        & (pl.col("status") == "unreadable")
        & (pl.col("error").str.len_chars() > 0)
        & pl.col("label").is_null()
    )
    chosen = found.unique("uri").filter(~missed).sort("uri")
    twin = expected.filter(pl.col("uri").is_in(chosen["uri"].to_list())).sort("uri")
    wrong = np.zeros(len(chosen), bool)
    exact = [c for c in chosen.columns if c not in _FLOATS and not c.startswith("top_")]
    for name in exact:
        if name != "shard":
            wrong |= ~chosen[name].eq_missing(twin[name]).to_numpy()
    for name in _FLOATS:
        a, b = (frame[name].fill_null(-1).to_numpy() for frame in (chosen, twin))
        wrong |= ~np.isclose(a, b, rtol=0, atol=_PROBABILITY_TOLERANCE * np.maximum(1, np.abs(b)))
    return int(wrong.sum())
