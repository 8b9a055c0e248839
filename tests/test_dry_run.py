"""What a dry run says is what a run would do, and it leaves nothing behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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


def estimate(pool: Pool) -> list[str]:
    """What is said of a million images by workers of 1000 images/s."""
    listing = Listing(1_000_000, 500, 14_000_000_000, ())
    return list(_lines(listing, pool, Probe(64, 1000.0, 14_000)))


def test_a_pool_that_grows_has_two_times() -> None:
    lines = estimate(Pool(1, 8, num_cpus=4, num_gpus=1))
    assert lines[0] == "images   1,000,000 in 500 shards"
    assert lines[1] == "bytes    14.0 GB, 14.0 kB an image"
    assert lines[2] == "workers  1 to 8, each with 4 CPUs and a GPU"
    assert lines[3].endswith(
        " 1,000.0 images/s in one worker, by a probe of 64 images in this process"
    )
    assert "about 2 min 5 s to 16 min 40 s if the workers" in lines[4]


def test_workers_that_share_a_gpu_are_not_counted_as_if_each_had_one() -> None:
    lines = estimate(Pool(8, 8, num_cpus=2, num_gpus=0.25))
    assert lines[2] == "workers  8, each with 2 CPUs and 0.25 of a GPU"
    assert "about 8 min 20 s or less" in lines[4]
    # A quarter of a GPU is one as long as no other worker shares it.
    growing = estimate(Pool(1, 8, num_cpus=2, num_gpus=0.25))
    assert "about 8 min 20 s to 16 min 40 s or less" in growing[-1]


def test_workers_on_cpus_are_all_counted() -> None:
    assert "about 2 min 5 s if the workers" in estimate(Pool(8, 8, num_cpus=1, num_gpus=0))[-1]


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


@pytest.mark.parametrize(("workers", "gpus"), [("2", 1), ("0", 0)])
def test_the_speed_is_measured_on_the_workers_device(
    workers: str,
    gpus: int,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where this process is the worker, PyTorch says that there is no GPU, as in the run."""
    devices: list[str] = []

    def noted(settings: LabelSettings, *_: Any, **__: Any) -> Probe:
        devices.append(settings.device)
        return Probe(5, 100.0, 1e4)

    on_gpu = Pool(1, 1, num_cpus=4, num_gpus=1)
    monkeypatch.setattr("jobs.labelling.dry_run._pool", lambda *_: on_gpu)
    monkeypatch.setattr("jobs.labelling.dry_run.this_machine", lambda: Node(4, gpus))
    monkeypatch.setattr("jobs.labelling.dry_run.probe", noted)
    assert main([*command, "--device", "auto", "--workers", workers, "--dry-run"]) == 0
    assert devices == ["cuda"]
    assert "speed    100.0 images/s in one worker" in capsys.readouterr().out


def test_the_time_is_that_of_all_images_at_the_speed_of_the_probe(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(perf_counter=iter([100.0, 102.0]).__next__)
    monkeypatch.setattr("jobs.labelling.dry_run.time", clock)
    assert main([*command, "--dry-run"]) == 0
    *_, speed, time = capsys.readouterr().out.splitlines()
    assert speed.startswith("speed    2.5 images/s")
    assert time.startswith("time     about 2 s if")


@pytest.mark.parametrize("num_missing", [1, 5])
def test_images_that_cannot_be_read_are_not_in_the_mean_size(
    num_missing: int, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((tmp_path / "photos").iterdir())
    manifest = tmp_path / "files.txt"
    manifest.write_text("".join(f"{file}\n" for file in files))
    for missing in files[:num_missing]:
        missing.unlink()
    sizes = [file.stat().st_size for file in files[num_missing:]]
    mean = f"{sum(sizes) / len(sizes) / 1000:.1f} kB" if sizes else "0 bytes"
    assert main([str(manifest), *command[1:], "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f", {mean} an image")


def test_a_wrong_address_is_told_as_by_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the input is listed, which is not there either."""
    command = [str(tmp_path / "none"), "--output", str(tmp_path / "out"), *FLAGS]
    said = []
    for flags in ([], ["--dry-run"]):
        assert main([*command, "--workers", "2", "--address", "nowhere:port", *flags]) == 1
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    assert "nowhere:port" in said[0].err


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
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = tmp_path / "out/labels/part-00000.parquet"
    models: list[int] = []

    def noted_model(settings: LabelSettings, images_to_label: int, **share: Any) -> Model:
        models.append(images_to_label)
        return load_model(settings, **share)

    def dry_run(*flags: str) -> tuple[list[str], str]:
        before = state_of(tmp_path)
        # By other paths than those of the run.
        assert main(["photos", "--output", "out", *FLAGS, "--dry-run", *flags]) == 0
        assert state_of(tmp_path) == before
        out, err = capsys.readouterr()
        return out.splitlines(), err

    assert main(command) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jobs.model.load_model", noted_model)
    assert dry_run()[0] == ["5 of 5 images are labelled already: nothing to do"]
    part.write_bytes(part.read_bytes()[:-20])
    verified, told = dry_run("--verify")
    assert "part-00000.parquet is damaged and would be labelled again: " in told
    assert "labelling 2 of 2 images to measure the speed" in told
    part.unlink()
    for found in (verified, dry_run()[0]):
        assert found[0] == "3 of 5 images are labelled already; the others:"
        assert found[1] == "images   2 in 1 shards"
        assert len(found) == 6
    assert models == [5, 5]  # the engine is that of the whole run


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
