"""What a dry run says is what a run would do, and it leaves nothing behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import MINIATURE
from jpegs import encode, photo

from jobs.label import main
from jobs.labelling.dry_run import Listing, Probe, _lines, survey
from jobs.model import Model, load_model
from jobs.pool import Node, Pool
from jobs.settings import LabelSettings
from pipeline.label_shard import LabelledShard, label_shard
from pipeline.records import Container, ImageRef, Shard
from pipeline.screening.screen import Limits
from pipeline.shards import cut

FLAGS = ["--backbone", MINIATURE, "--weights", "none", "--afd", "none", "--resize", "64"]
FLAGS += ["--crop", "64", "--device", "cpu", "--workers", "0", "--images-per-shard", "2"]


def refs(count: int, *, num_bytes: int | None = None) -> list[ImageRef]:
    return [ImageRef(f"/{number}.jpg", num_bytes=num_bytes) for number in range(count)]


def test_a_collection_is_counted_in_one_pass() -> None:
    listing = survey(cut(refs(1001), 100))
    assert (listing.num_images, listing.num_shards, listing.num_bytes) == (1001, 11, None)
    assert len(set(listing.sample)) == 64
    members = [
        ImageRef(f"{tar}#{n}", tar, Container.TAR, 512 * n, 7) for tar in "ab" for n in range(3)
    ]
    assert survey(cut(members, 100)) == Listing(6, 2, 42, tuple(members))
    for known, unknown in ((members, refs(1)), (refs(1), members)):
        assert survey([known, unknown]).num_bytes is None


def test_every_image_may_be_in_the_sample() -> None:
    places = [int(ref.uri[1:-4]) for ref in survey(cut(refs(6400), 100)).sample]
    # The mean of 64 uniform numbers is within four of its standard deviations.
    assert abs(sum(places) / 64 - 3200) < 4 * 6400 / (12 * 64) ** 0.5


def test_a_pool_that_grows_has_two_times() -> None:
    listing = Listing(1_000_000, 500, 14_000_000_000, ())
    lines = list(_lines(listing, Pool(1, 8, num_cpus=4, num_gpus=1), Probe(64, 1000.0, 14_000)))
    assert lines[0] == "images   1,000,000 in 500 shards"
    assert lines[1] == "bytes    14.0 GB, 14.0 kB an image"
    assert lines[2] == "workers  1 to 8, each with 4 CPUs and a GPU"
    assert "about 2 min 5 s to 16 min 40 s if the workers" in lines[4]


def test_workers_that_share_a_gpu_are_not_counted_as_if_each_had_one() -> None:
    listing = Listing(1_000_000, 500, 14_000_000_000, ())
    lines = list(_lines(listing, Pool(8, 8, num_cpus=2, num_gpus=0.25), Probe(64, 1000.0, 14_000)))
    assert lines[2] == "workers  8, each with 2 CPUs and 0.25 of a GPU"
    assert "about 8 min 20 s or less" in lines[4]


def test_a_machine_without_gpus_says_how_many_workers_with_gpus_there_would_be(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a cluster's head node, where the workers' speed cannot be measured."""
    on_gpus = Pool(2, 8, num_cpus=4, num_gpus=0.5)
    monkeypatch.setattr("jobs.labelling.dry_run._pool", lambda *_: on_gpus)
    command[command.index("--device") + 1] = "cuda"
    command[command.index("--workers") + 1] = "2"
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "images   5 in 3 shards",
        "workers  2 to 8, each with 4 CPUs and 0.5 of a GPU",
        "speed    not measured: the workers have GPUs, and this machine has none",
    ]


def test_the_command_says_it_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(encode(photo(70, 80, seed=number)))
    (folder / "bad.jpg").write_bytes(b"<html>")
    flags = ["--backbone", "mobilenet_v3_small", "--weights", "none", "--crop", "64"]
    flags += ["--resize", "64", "--device", "cpu", "--images-per-shard", "4", "--workers", "1"]
    assert main([str(folder), "--output", str(output), "--dry-run", *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert said[0] == "images   6 in 2 shards"
    assert re.match(rf"bytes    about {size / 1000:.1f} kB,", said[1])
    assert said[2] == "workers  1, each with 1 CPU"
    assert float(said[3].split()[1].replace(",", "")) > 0
    assert not output.exists()
    assert main([str(tmp_path / "none"), "--output", str(output), "--dry-run", *flags]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_the_probe_is_what_one_of_the_workers_would_do(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[dict[str, Any]] = []
    labelled: list[tuple[int, Any, int]] = []

    def noted_model(settings: LabelSettings, **share: Any) -> Model:
        models.append(share)
        return load_model(settings, num_threads=1)

    def noted_shard(shard: Shard, **named: Any) -> LabelledShard:
        labelled.append((len(shard.refs), named["limits"], named["read_threads"]))
        return label_shard(shard, **named)

    monkeypatch.setattr("jobs.model.load_model", noted_model)
    monkeypatch.setattr("pipeline.label_shard.label_shard", noted_shard)
    monkeypatch.setattr("jobs.labelling.dry_run.this_machine", lambda: Node(4, 0))
    command[command.index("--workers") + 1] = "2"
    flags = ["--cpus-per-worker", "2", "--batch-size", "3", "--read-threads", "3"]
    limits = ["--max-pixels", "9999", "--integrity", "off"]
    assert main([*command, *flags, *limits, "--dry-run"]) == 0
    assert models == [{"num_threads": 2, "images_to_label": 2}]  # of five, by one of two
    chosen = Limits(9999, "off")
    assert labelled == [(3, chosen, 3), (5, chosen, 3)]  # a batch to warm up, then all


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """To label five images in three shards to `out`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(encode(photo(70, 80, seed=number)))
    return [str(folder), "--output", str(tmp_path / "out"), *FLAGS]


def state_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file, with what a write would change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def a_file(out: Path) -> None:
    out.write_text("notes")


def of_another_job(out: Path) -> None:
    out.mkdir()
    (out / "run.json").write_text('{"settings": {"quality": [7]}}')


def with_other_settings(out: Path) -> None:
    (out / "labels").mkdir(parents=True)
    (out / "labels/part-00000.parquet").touch()
    (out / "run.json").write_text('{"run_id": "1", "settings": {"images_per_shard": 3}}')


def with_labels_of_no_run(out: Path) -> None:
    with_other_settings(out)
    (out / "run.json").unlink()


@pytest.mark.parametrize(
    "make", [a_file, of_another_job, with_other_settings, with_labels_of_no_run]
)
def test_an_output_that_the_run_would_refuse_is_refused(
    make: Callable[[Path], None],
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "out")
    before = state_of(tmp_path)
    said = []
    for flags in ([], ["--dry-run"]):
        assert main([*command, *flags]) == 1
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    assert "another --output" in said[0].err
    assert state_of(tmp_path) == before


def test_what_is_labelled_already_is_not_estimated_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    part = out / "labels/part-00000.parquet"

    def dry_run(*flags: str) -> list[str]:
        before = state_of(tmp_path)
        assert main([*command, "--dry-run", *flags]) == 0
        assert state_of(tmp_path) == before
        return capsys.readouterr().out.splitlines()

    assert main(command) == 0
    capsys.readouterr()
    assert dry_run() == ["5 of 5 images are labelled already: nothing to do"]
    part.write_bytes(part.read_bytes()[:-20])
    verified = dry_run("--verify")
    part.unlink()
    for found in (verified, dry_run()):
        assert found[0] == "3 of 5 images are labelled already; the others:"
        assert found[1] == "images   2 in 1 shards"
        assert len(found) == 6


def test_a_run_of_another_model_is_not_estimated(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command) == 0
    (out / "labels/part-00000.parquet").unlink()
    record = json.loads((out / "run.json").read_text())
    record["model"]["weights_sha256"] = "of others"
    (out / "run.json").write_text(json.dumps(record))
    assert main([*command, "--dry-run"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("afd label: the model is not the one the run started with: weights-sha")
    assert last.endswith("began it, or another --output")
