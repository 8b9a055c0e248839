"""The label job through its real parts: Ray, DALI, PyTorch, Parquet read back by other readers."""

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
import ray
from checkpoints import MINIATURE
from jpegs import encode, photo
from servers import Bucket, Proxy

import jobs.cluster
import jobs.labelling.workers
from jobs.demo_corpus import broken_files
from jobs.label import label, main
from jobs.labelling.messages import WorkerConfig
from jobs.labelling.shard_labeler import ShardLabeler
from jobs.settings import LabelSettings
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import SCHEMA, STATUSES, Shard
from pipeline.screening.screen import Limits

# Small and random: these tests are about rows, not about what the labels are.
MODEL = {
    "backbone": MINIATURE,
    "weights": "none",
    "resize": 64,
    "crop": 64,
    "batch_size": 8,
    "device": "cpu",
}
MODEL_FLAGS = [
    word for name, value in MODEL.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small photographs in two folders and one broken file of each kind."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(60):
        rgb = photo(80 + index % 7, 90 + index % 5, seed=index)
        path = folder / f"class{index % 2}" / f"{index:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(rgb, quality=10 + index))
    (folder / "broken").mkdir()
    for name, data in broken_files(encode(photo(80, 90)), np.random.default_rng(0)).items():
        (folder / "broken" / name).write_bytes(data)
    return folder


def files_of(corpus: Path) -> list[Path]:
    return [path for path in corpus.rglob("*") if path.is_file()]


def planned(corpus: Path) -> list[str]:
    return sorted(map(str, files_of(corpus)))


def rows_of(output: Path) -> pl.DataFrame:
    """The data set as Polars reads it."""
    return pl.read_parquet(output / "labels" / "*.parquet").sort("uri")


@pytest.fixture(scope="module")
def labelled(corpus: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one undisturbed run."""
    output = tmp_path_factory.mktemp("labelled") / "out"
    settings = LabelSettings(
        input=str(corpus),
        output=str(output),
        images_per_shard=20,
        address=address,
        workers=1,  # each imports PyTorch and DALI; of several there are others' tests
        **MODEL,
    )
    assert label(settings).complete
    return output


def in_bucket(s3: Bucket, corpus: Path) -> str:
    s3.write({f"photos/{path.relative_to(corpus)}": path.read_bytes() for path in files_of(corpus)})
    return f"{s3.url}/photos"


def same_rows(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Whose batches were others: only the last bits of the probabilities may differ."""
    columns = [name for name in SCHEMA.names if name not in ("shard", "confidence")]
    flat = [name for name in columns if not name.startswith("top_")]
    assert found.select(flat).equals(expected.select(flat))
    np.testing.assert_allclose(
        found["confidence"].drop_nulls().to_numpy(),
        expected["confidence"].drop_nulls().to_numpy(),
        atol=1e-4,
    )


def test_from_a_bucket_to_a_bucket(
    corpus: Path, labelled: Path, address: str, s3: Bucket, tmp_path: Path
) -> None:
    source, output = in_bucket(s3, corpus), f"{s3.url}/runs/1"
    settings = LabelSettings(
        input=source, output=output, images_per_shard=20, address=address, workers=1, **MODEL
    )
    summary = label(settings)
    assert summary.complete
    assert label(settings) == summary
    s3.download("runs/1/", tmp_path)
    assert not list(tmp_path.glob(".*"))
    found = rows_of(tmp_path).with_columns(
        pl.col("uri").str.replace(source, str(corpus), literal=True)
    )
    same_rows(found.sort("uri"), rows_of(labelled))


def test_this_process_gives_the_rows_of_rays_workers(
    corpus: Path, labelled: Path, tmp_path: Path
) -> None:
    settings = LabelSettings(
        input=str(corpus), output=str(tmp_path), images_per_shard=20, workers=0, **MODEL
    )
    assert label(settings).complete
    same_rows(rows_of(tmp_path), rows_of(labelled))


def test_every_planned_image_has_exactly_one_row(corpus: Path, labelled: Path) -> None:
    assert rows_of(labelled)["uri"].to_list() == planned(corpus)


def test_any_reader_opens_the_labels_as_one_data_set(labelled: Path) -> None:
    arrow = pyarrow.dataset.dataset(labelled / "labels").to_table()
    assert arrow.schema.names == SCHEMA.names
    assert arrow.schema.types == SCHEMA.types
    found = duckdb.sql(
        f"SELECT count(*), count(DISTINCT uri), count(label) FROM '{labelled}/labels/*.parquet'"
    ).fetchall()
    rows = rows_of(labelled)
    assert found == [(len(rows), len(rows), rows["label"].count())]


def test_labelled_rows_are_labelled_and_the_others_say_why_not(labelled: Path) -> None:
    rows = rows_of(labelled)
    good = rows.filter(pl.col("status").is_in(["ok", "damaged"]))
    bad = rows.filter(~pl.col("status").is_in(["ok", "damaged"]))
    assert good["label"].null_count() == 0
    assert good["confidence"].is_between(0, 1).all()
    assert (good["top_labels"].list.len() == 5).all()
    assert (good["top_labels"].list.first() == good["label"]).all()
    assert bad["label"].null_count() == len(bad) > 0
    assert (
        rows.filter(pl.col("status") == "ok")["error"].null_count()
        == (rows["status"] == "ok").sum()
    )
    assert rows.filter(pl.col("status") != "ok")["error"].null_count() == 0
    # Without a trained AFD-Module nothing can be said about drift.
    assert rows["drift_angle_deg"].null_count() == len(rows)


def test_the_summary_is_what_the_rows_say(labelled: Path) -> None:
    summary = json.loads((labelled / "summary.json").read_text())
    rows = rows_of(labelled)
    assert summary["exit_reason"] == "complete"
    assert summary["images"] == summary["planned_images"] == len(rows)
    assert summary["counts"] == {status: (rows["status"] == status).sum() for status in STATUSES}
    assert summary["shards"] == summary["planned_shards"] == len(list(labelled.glob("labels/*")))
    assert 0 < summary["start_up_s"] < summary["wall_s"]
    assert {"read", "decode", "dct", "model", "rows", "write"} <= summary["seconds"].keys()


def test_the_parts_carry_how_they_were_made(labelled: Path) -> None:
    run = json.loads((labelled / "run.json").read_text())
    for part in labelled.glob("labels/*.parquet"):
        metadata = pyarrow.parquet.read_metadata(part)
        facts = json.loads(metadata.metadata[b"afd"])
        assert facts["run_id"] == run["run_id"]
        assert facts["settings"]["crop"] == 64
        assert facts["backbone"] == MINIATURE
        assert facts["precision"] in ("float32", "bfloat16")
        assert sum(facts["counts"].values()) == metadata.num_rows
        assert facts["versions"]["torch"]


def test_a_finished_output_is_left_alone(
    corpus: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in labelled.rglob("*") if path.is_file()}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}

    before = files()
    arguments = [str(corpus), "--output", str(labelled), "--images-per-shard", "20", *MODEL_FLAGS]
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert files() == before


def test_other_settings_on_the_same_output_are_refused_with_the_difference(
    corpus: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(corpus), "--output", str(labelled), "--images-per-shard", "30", *MODEL_FLAGS]
    assert main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "images-per-shard was 20, is now 30" in line


class PoisonedPipeline:
    """Dies, as a crash in native code would, at the second shard; labels the others with nothing.

    Without a model, PyTorch and DALI it starts quickly, and it has to start three times.
    """

    part_facts: ClassVar[dict[str, Any]] = {}
    model = SimpleNamespace(facts={}, predictor=SimpleNamespace(notice=None))

    def read(self, shard: Shard) -> ReadAhead:
        return ReadAhead((), Limits(), num_threads=1, max_images=1)

    def label(self, shard: Shard, images: ReadAhead) -> SimpleNamespace:
        time.sleep(0.1)  # so that the shard of the other thread waits for the model
        if shard.index == 1:
            os._exit(1)
        count = len(shard.refs)
        table = pa.table({"status": ["ok"] * count, "num_bytes": [1] * count})
        counts = {"ok": count, "unreadable": 0}
        return SimpleNamespace(
            table=table, counts=counts, began_at=time.time(), seconds={}, mean_ready=0.0
        )


class PoisonedLabeler(ShardLabeler):
    def _load(self, config: WorkerConfig) -> Any:
        return PoisonedPipeline()


def test_a_shard_that_kills_its_process_is_set_aside_and_the_rest_is_labelled(
    corpus: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(jobs.labelling.workers, "ShardLabeler", PoisonedLabeler)
    output = tmp_path / "out"
    arguments = [str(corpus), "--output", str(output), "--address", address, *MODEL_FLAGS]
    assert main([*arguments, "--images-per-shard", "20", "--attempts-per-shard", "2"]) == 1
    error = capsys.readouterr().err
    assert "part-00001.parquet: the worker process died in each of 2 attempts" in error
    shards = -(-len(planned(corpus)) // 20)
    assert len(list(output.glob("labels/*.parquet"))) == shards - 1
    summary = json.loads((output / "summary.json").read_text())
    assert summary["exit_reason"] == "failed shards"
    assert list(summary["failed"]) == ["part-00001.parquet"]


def test_a_model_that_cannot_be_built_is_one_line(
    corpus: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = [str(corpus), "--output", str(output), "--address", address, "--workers", "1"]
    assert main([*arguments, "--progress", "off", "--backbone", "mobilenet_v3_smal"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "unknown backbone 'mobilenet_v3_smal': did you mean 'mobilenet_v3_small'?" in line
    assert not list(output.glob("labels/*"))


def test_a_node_without_the_input_ends_the_run(
    corpus: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here all nodes are one machine: the file is one that it lacks."""
    monkeypatch.setattr(
        jobs.labelling.workers, "existing_input_files", lambda _: ("/not/mounted/0.jpg",)
    )
    output = tmp_path / "out"
    arguments = [str(corpus), "--output", str(output), "--address", address, "--workers", "1"]
    assert main([*arguments, "--progress", "off", *MODEL_FLAGS]) == 1
    assert "'/not/mounted/0.jpg' does not exist on the node" in capsys.readouterr().err
    assert not list(output.glob("labels/*"))


def test_a_node_that_cannot_make_a_worker_is_told_what_it_lacks(
    corpus: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its class is in a module that only this process has."""
    module = ModuleType("of_another_version")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    members = {"__init__": ShardLabeler.__init__, "ready": ShardLabeler.ready}
    worker = type("Worker", (), {"__module__": module.__name__, **members})
    monkeypatch.setattr(module, "Worker", worker, raising=False)
    monkeypatch.setattr(jobs.labelling.workers, "ShardLabeler", worker)
    arguments = [str(corpus), "--output", str(tmp_path / "out"), "--address", address]
    assert main([*arguments, "--progress", "off", *MODEL_FLAGS]) == 1
    error = capsys.readouterr().err
    assert "No module named 'of_another_version': every node needs this package" in error


def test_an_input_that_is_not_there_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, empty = tmp_path / "nothing", tmp_path / "empty"
    empty.mkdir()
    for folder in (missing, empty):
        assert main([str(folder), "--output", str(empty / "out")]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert str(folder) in line
        assert not any(empty.iterdir())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["503:SlowDown", "403:SignatureDoesNotMatch"])
def test_a_store_that_stops_taking_writes_is_one_line(
    corpus: Path,
    s3: Bucket,
    proxy: Proxy,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy.faults["^PUT .*plan.parquet"] = [fault] * 9
    assert main([str(corpus), "--output", f"{s3.url}/run", *MODEL_FLAGS]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert fault.replace(":", " ") in line
    assert "the same command continues the run" in line
