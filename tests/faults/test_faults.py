"""Each kind of fault twice; `python -m faults` does more of them."""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from faults.audit import audit
from faults.kinds import KINDS, NEEDS_ROOT
from faults.rounds import Stage, play, set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return set_up(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_is_lost_doubled_or_wrong(stage: Stage, kind: str, seed: int) -> None:
    if kind in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    played = play(stage, kind, seed)
    assert played.audit.clean, played


def test_the_audit_sees_what_it_is_for(stage: Stage, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(stage.reference, output)
    parts = sorted(output.glob("labels/*.parquet"))
    shutil.copy(parts[0], output / "labels" / "again.parquet")
    parts[1].unlink()
    rows = pl.read_parquet(parts[2])
    rows.with_columns(label=pl.col("label") + 1).write_parquet(parts[2])
    (output / ".staging").mkdir()
    (output / ".staging" / "part-00001.parquet.x").touch()
    found = audit(output, stage.reference)
    assert found.lost > 0
    assert found.doubled > 0
    assert found.wrong == rows["label"].is_not_null().sum() > 0
    assert found.leftovers == (".staging/part-00001.parquet.x",)
