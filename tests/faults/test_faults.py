"""Each kind of fault twice; `python -m faults` does more of them."""

import os
import shutil
from pathlib import Path

import polars as pl
import psutil
import pytest
from servers import Bucket

from faults.audit import audit
from faults.kinds import KINDS, NEEDS_ROOT
from faults.label_job import LabelJob, run
from faults.rounds import Stage, play, set_up
from pipeline.output import LABELS, OutputFolder

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


def test_a_run_from_a_bucket_to_a_bucket_survives_its_worker_and_its_driver(
    stage: Stage, s3: Bucket, tmp_path: Path
) -> None:
    files = [path for path in stage.corpus.rglob("*") if path.is_file()]
    s3.write({f"photos/{path.relative_to(stage.corpus)}": path.read_bytes() for path in files})
    source, output = f"{s3.url}/photos", f"{s3.url}/run"
    job = LabelJob(source, output)
    assert job.wait_for_parts(3)
    job.workers()[0].kill()
    assert job.wait_for_parts(8)
    family = job.family()
    job.driver.kill()
    psutil.wait_procs(family, timeout=60)
    job.end()
    kept = OutputFolder(output).modification_times(LABELS)
    assert 8 <= len(kept) < stage.shards
    ended = run(source, output)
    assert ended.code == 0, ended.said
    assert f"continuing: {len(kept)} of {stage.shards} shards" in ended.said
    assert OutputFolder(output).modification_times(LABELS).items() >= kept.items()
    s3.download("run/", tmp_path / "run")
    for part in [*(tmp_path / "run").glob("labels/*"), tmp_path / "run" / "plan.parquet"]:
        rows = pl.read_parquet(part)
        local = pl.col("uri").str.replace(source, str(stage.corpus), literal=True)
        rows.with_columns(local).write_parquet(part)
    assert audit(tmp_path / "run", stage.reference).clean


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
