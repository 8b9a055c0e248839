"""Labelling in this process: no Ray, the same exit codes and messages, and it can be continued."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from checkpoints import MINIATURE
from jpegs import encode, photo
from labelers import planned_settings

from jobs.label import main
from jobs.labelling.messages import CommitRecord
from jobs.labelling.shard_labeler import ShardLabeler
from jobs.labelling.shard_output import ShardOutput
from jobs.labelling.workers import _unless_all_fail
from jobs.pool import ClusterError
from pipeline.label_shard import LabelledShard
from pipeline.output import OutputFolder
from pipeline.presence import Presence
from pipeline.stores.output_store import STAGING, LocalFolder

MODEL = ["--backbone", MINIATURE, "--weights", "none", "--crop", "64", "--resize", "64"]
FLAGS = [*MODEL, "--workers", "0", "--images-per-shard", "4", "--progress", "off"]
# As where Ray is not installed.
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from jobs.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(encode(photo(70, 80, seed=number)))
    (folder / "broken.jpg").write_bytes(b"<html>")
    return folder


def statuses(output: Path) -> dict[str, int]:
    parts = f"read_parquet('{output}/labels/*.parquet')"
    return dict(duckdb.sql(f"select status, count(*) from {parts} group by all").fetchall())


def test_without_ray_every_image_has_its_row(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_RAY, "label", str(folder)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out"), *FLAGS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "out") == {"ok": 10, "rejected": 1}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["exit_reason"] == "complete"
    assert summary["counts"]["ok"] == 10


def test_flags_decide_what_is_labelled_and_what_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is below the images, and holds the plan of a run that labelled nothing."""
    output = tmp_path / "out"
    planned_settings(tmp_path, output)
    (tmp_path / "cut.jpg").write_bytes(encode(photo(70, 80))[:-300])
    (tmp_path / "large.jpg").write_bytes(encode(photo(80, 90)))
    flags = ["--top-k", "3", "--integrity", "off", "--max-pixels", "7000", "--cpus-per-worker", "1"]
    flags += ["--log-format", "json", "--log-level", "debug"]
    assert main([str(tmp_path), "--output", str(output), *FLAGS, *flags]) == 0
    *_, last = lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (last["images"], last["counts"]["ok"], last["counts"]["rejected"]) == (7, 6, 1)
    assert {line["part"] for line in lines if "part" in line} == {
        "part-00000.parquet",
        "part-00001.parquet",
    }
    rows = pq.read_table(output / "labels").to_pylist()
    assert [row["uri"] for row in rows if row["status"] != "ok"] == [str(tmp_path / "large.jpg")]
    assert all(len(row["top_labels"]) == 3 for row in rows if row["status"] == "ok")


def test_labels_are_called_what_the_user_calls_them(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"kind {k}\n" for k in range(1000)))
    output = tmp_path / "out"
    assert main([str(folder), "--output", str(output), *FLAGS, "--class-names", str(names)]) == 0
    query = f"select label, label_name from '{output}/labels/*.parquet' where status = 'ok'"
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == 10
    assert all(name == f"kind {label}" for label, name in rows)


def test_only_who_did_not_choose_the_module_is_told_that_none_ships(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for afd, told in (("default", True), ("untrained", False)):
        image, output = str(folder / "0.jpg"), str(tmp_path / afd)
        assert main([image, "--output", output, *FLAGS, "--afd", afd]) == 0
        assert ("no trained AFD-Module ships" in capsys.readouterr().err) == told


def test_what_was_interrupted_is_continued(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    label_each = ShardLabeler.label_each

    def interrupted(
        self: ShardLabeler, shards: Sequence[int]
    ) -> Generator[CommitRecord, None, None]:
        yield from label_each(self, shards[:1])
        raise KeyboardInterrupt

    arguments = [str(folder), "--output", str(tmp_path), *FLAGS]
    with monkeypatch.context() as patched:
        patched.setattr(ShardLabeler, "label_each", interrupted)
        assert main(arguments) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["exit_reason"], len(summary["failed"])) == ("interrupted", 2)
    said = capsys.readouterr().err
    assert "4 of 11 images in" in said
    assert "not labelled yet" not in said  # of each shard that is left
    assert statuses(tmp_path) == {"ok": 4}
    assert main(arguments) == 0
    assert "1 of 3 shards are labelled already" in capsys.readouterr().err
    assert statuses(tmp_path) == {"ok": 10, "rejected": 1}


def test_verifying_names_what_readers_would_take_for_parts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--output", str(tmp_path), *FLAGS]
    assert main(arguments) == 0
    part = tmp_path / "labels" / "part-00001.parquet"
    for name in ("part-00001 (copy).parquet", "part-00003.parquet", "notes.parquet"):
        shutil.copy(part, part.with_name(name))
    capsys.readouterr()
    assert main([*arguments, "--verify"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        f"{name} is of no shard of the run: remove it, or other readers will count it"
        for name in ("part-00001 (copy).parquet", "part-00003.parquet")
    ]


def test_of_two_drivers_the_second_labels_what_is_missing_or_damaged_from_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """And leaves alone what the first one is about to write."""
    arguments = [str(folder), "--output", str(tmp_path), *FLAGS, "--cpus-per-worker", "1"]
    assert main(arguments) == 0
    first, _, third = sorted((tmp_path / "labels").iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    third.unlink()
    label_each, given = ShardLabeler.label_each, []

    def noted(self: ShardLabeler, shards: Sequence[int]) -> Generator[CommitRecord, None, None]:
        given.append(list(shards))
        return label_each(self, shards)

    monkeypatch.setattr(ShardLabeler, "label_each", noted)
    unfinished = tmp_path / STAGING / "part"
    with Presence(OutputFolder(str(tmp_path))):
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.touch()
        assert main([*arguments, "--verify"]) == 0
    said = capsys.readouterr().err
    assert f"{first.name} is damaged and will be labelled again: " in said
    assert f"another driver is labelling to {tmp_path} (process " in said
    assert given == [[2, 0]]
    assert statuses(tmp_path) == {"ok": 10, "rejected": 1}
    assert unfinished.exists()


def test_the_part_of_another_model_is_removed_and_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    label, commit = ShardLabeler.label, ShardOutput.commit
    weights: list[dict[str, str]] = [{}, {"weights_sha256": "0123"}, {"weights_sha256": "0123"}]

    def with_other_weights(self: ShardLabeler, shard: int) -> CommitRecord:
        record = label(self, shard)
        return replace(record, model={**record.model, **weights[shard]})

    def committed(self: ShardOutput, shard: int, labelled: LabelledShard, facts: Any) -> float:
        return commit(self, shard, labelled, {**facts, **weights[shard]})

    arguments = [str(folder), "--output", str(tmp_path), *FLAGS]
    with monkeypatch.context() as patched:
        patched.setattr(ShardLabeler, "label", with_other_weights)
        patched.setattr(ShardOutput, "commit", committed)
        assert main(arguments) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == (
        "afd label: a worker's model is not the one the run started with: weights-sha256 was None,"
        " is now '0123'; the same command continues the run"
    )
    assert "part-00001.parquet: removed, as it is of another model" in "".join(said)
    assert [part.name for part in (tmp_path / "labels").iterdir()] == ["part-00000.parquet"]
    assert main(arguments) == 0
    assert statuses(tmp_path) == {"ok": 10, "rejected": 1}


def test_a_full_disk_ends_the_run_and_says_what_is_labelled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write, tried = LocalFolder.write, []

    def full(self: LocalFolder, name: str, data: bytes) -> None:
        tried.append(name)
        if name in ("labels/part-00001.parquet", "summary.json"):
            raise OSError(28, "No space left on device")
        write(self, name, data)

    arguments = [str(folder), "--output", str(tmp_path), *FLAGS]
    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "write", full)
        assert main(arguments) == 1
    assert tried.count("labels/part-00001.parquet") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "summary.json is not written: No space left on device" in lines
    assert any(re.match(r"[47] of 11 images in .*", line) for line in lines)
    assert lines[-1] == (
        f"afd label: cannot write to {str(tmp_path)!r}: No space left on device;"
        " the same command continues the run"
    )
    assert main(arguments) == 0
    assert statuses(tmp_path) == {"ok": 10, "rejected": 1}


@pytest.mark.parametrize("labelled_before", [0, 1])
@pytest.mark.parametrize("is_mount_point", [False, True])
def test_an_output_that_vanishes_is_no_plan_that_cannot_be_read(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    labelled_before: int,
    is_mount_point: bool,
) -> None:
    """The command that the message advises must find the run, and nothing in its place."""
    output, moved, label_each = tmp_path / "out", tmp_path / "moved", ShardLabeler.label_each

    def lose_output(
        self: ShardLabeler, shards: Sequence[int]
    ) -> Generator[CommitRecord, None, None]:
        for number, shard in enumerate(shards):  # so that none is just being written
            [commit] = label_each(self, [shard])
            if number == labelled_before:
                output.rename(moved)
                if is_mount_point:
                    output.mkdir()
            yield commit

    arguments = [str(folder), "--output", str(output), *FLAGS]
    with monkeypatch.context() as patched:
        patched.setattr(ShardLabeler, "label_each", lose_output)
        assert main(arguments) == 1
    plan = str(output / "plan.parquet")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"afd label: cannot go on with the output {output}: {plan!r} does not exist any more on"
        f" the node {socket.gethostname()}: mount the output again, or move it back; the same"
        " command continues the run"
    )
    assert not list(output.rglob("*"))
    if is_mount_point:
        output.rmdir()
    moved.rename(output)
    assert main(arguments) == 0
    assert statuses(output) == {"ok": 10, "rejected": 1}


def test_a_model_that_cannot_be_built_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--output", str(tmp_path), "--workers", "0", "--progress", "off"]
    assert main([*arguments, "--backbone", "mobilenet_v3_smal"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "unknown backbone 'mobilenet_v3_smal': did you mean 'mobilenet_v3_small'?" in line
    assert not list(tmp_path.glob("labels/*"))


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("address", "variable", "told"),
    [
        ("127.0.0.1:1", "", "no Ray cluster at '127.0.0.1:1' (Connection refused)"),
        ("auto", "RAY_ADDRESS", "no Ray cluster at RAY_ADDRESS '127.0.0.1:1' (Connection refused)"),
        ("local", "RAY_JOB_CONFIG_JSON_ENV_VAR", "this is a job of a Ray cluster: use --address"),
    ],
)
def test_a_wrong_address_is_told_before_the_input_is_listed(
    address: str,
    variable: str,
    told: str,
    flags: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if variable:
        monkeypatch.setenv(variable, "127.0.0.1:1")
    listed: list[str] = []
    for module in ("jobs.label", "jobs.labelling.dry_run"):
        monkeypatch.setattr(f"{module}.list_images", lambda *_: listed.append("yes"))
    output = tmp_path / "out"
    assert main([str(folder), "--output", str(output), "--address", address, *flags]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"afd label: {told}")
    assert not output.exists()
    assert not listed


def test_without_ray_in_this_process_no_address_matters(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submitted job may label in its own process."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main([str(folder / "0.jpg"), "--output", str(tmp_path), *FLAGS]) == 0


def test_a_run_ends_where_every_shard_fails(
    expired: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rather than have each of the shards that are left fail, and say so."""
    monkeypatch.setattr("jobs.labelling.workers._MAX_FAILURES_IN_A_ROW", 2)
    flags = [*MODEL, "--workers", "0", "--images-per-shard", "1", "--progress", "off"]
    assert main([expired, "--output", str(tmp_path / "out"), *flags]) == 1
    *_, last = lines = capsys.readouterr().err.splitlines()
    assert re.match(r"afd label: 6 shards failed in a row, the last with: .*ExpiredToken", last)
    assert last.endswith("; the same command continues the run")
    assert sum("part-" in line for line in lines) == 6
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["failed"]) == 16


def test_only_failures_in_a_row_count() -> None:
    commits = [CommitRecord(k, 0.0, error=None if k % 30 == 29 else "no") for k in range(200)]
    assert list(_unless_all_fail(commits, at_once=1)) == commits
    with pytest.raises(ClusterError, match=r"^34 shards failed in a row, the last with: no$"):
        list(_unless_all_fail([CommitRecord(0, 0.0, error="no")] * 40, at_once=1))
