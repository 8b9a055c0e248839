"""`afd evaluate` on a few pictures: its files, and what it compresses."""

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import MINIATURE, miniature_checkpoint
from jpegs import encode, photo

from afd_model.backbones import load_backbone
from jobs.evaluate import main
from jobs.evaluate_settings import EvaluateSettings
from jobs.evaluation.drift_table import make_drift_table
from jobs.evaluation.measure import Evaluation, measure
from jobs.evaluation.tables import make_tables
from pipeline.degrade import FULL_IMAGE, IMAGENET_C
from pipeline.pairs.recompress import drawn_qualities
from pipeline.stores.output_store import STAGING


def test_there_is_something_to_measure() -> None:
    places = {"input": "in", "output": "out"}
    with pytest.raises(ValueError, match="nothing to measure: give --quality, or --times"):
        EvaluateSettings(**places, quality=(), times=0)
    with pytest.raises(ValueError, match="nothing to measure: give --protocol"):
        EvaluateSettings(**places, protocol=())
    EvaluateSettings(**places, quality=(), times=1)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    for k in range(4):
        (folder / f"{k}.jpg").write_bytes(encode(photo(80, 110, k), quality=95))
    (folder / "2_bad.jpg").write_bytes(b"<html>")  # among the others: what follows keeps its name
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_checkpoint(tmp_path_factory.mktemp("afd"))


def run(collection: Path | str, output: Path, *flags: str) -> int:
    fixed = ("--backbone", MINIATURE, "--weights", "none", "--device", "cpu", "--threads", "1")
    threads = torch.get_num_threads()
    try:
        return main([str(collection), "--output", str(output), *fixed, *flags])
    finally:
        torch.set_num_threads(threads)


def test_the_job_writes_the_papers_tables(
    collection: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[dict[str, int]] = []

    def noted(make: Callable[..., Any], *measured: Any, **chosen: int) -> Any:
        made.append(chosen)
        return make(*measured, **chosen)

    for make in (make_tables, make_drift_table):
        monkeypatch.setattr(f"jobs.evaluate.{make.__name__}", partial(noted, make))
    [random] = drawn_qualities("3.jpg", 1, 1)
    drawn_too = ("--quality", "25", "7", str(random), "--times", "1", "--seed", "1")
    flags = ("--resamples", "9", "--batch-size", "3", "--precision", "fp32")
    assert run(collection, tmp_path, "--afd", str(checkpoint), *drawn_too, *flags) == 0
    drawn = {"resamples": 9, "seed": 1}
    assert made == [{"trained": True, **drawn}, drawn]
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "report.md").read_text().strip()
    for title in ("full-image, one compression: agreement", "imagenet-c: drift"):
        assert f"## {title}" in printed
    for term in ("direct test", "flips", "θ*", "AUROC", "max-softmax", "header quality"):
        assert printed.count(f"{term}: ") == 1  # what a table's head means
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["images"] == 4
    assert "the content is html" in report["left_out"][0]["error"]
    assert report["settings"]["quality"] == [25, 7, random]
    names = ["QF 25", "QF 7", f"QF {random}", "all"]
    assert [r["row"] for r in report["drift"]] == names * 2  # of each protocol
    rows = pq.read_table(tmp_path / "tables.parquet").to_pylist()
    assert [r["row"] for r in rows[:5]] == [*names[:3], "mean", "clean"]
    clean = [r for r in rows if r["row"] == "clean"]
    assert all(r["direct"] == 1 for r in clean)
    images = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert len(images) == 4 * (1 + 2 * (3 + 1))
    of_clean = [r for r in images if r["condition"] == "clean"]
    assert all(r["true_angle_deg"] == 0 for r in of_clean)
    harsh = [r for r in images if r["condition"] == "QF 7"]
    assert min(r["true_angle_deg"] for r in harsh) > 0
    assert all(0 < r["flip_probability"] < 1 for r in harsh)
    drawn, stated = (
        next(r for r in images if r["name"] == "3.jpg" and r["condition"] == condition)
        for condition in ("1 random", f"QF {random}")
    )
    assert drawn["qualities"] == stated["qualities"] == [random]
    assert drawn["true_angle_deg"] == pytest.approx(stated["true_angle_deg"], rel=1e-3)
    assert not list(tmp_path.glob("response_*"))  # nobody asked for the figure
    assert "response" not in printed


def test_without_a_module_the_columns_are_equal(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(2_000_000_000.0, -3600)
    monkeypatch.setattr("time.time", lambda: next(clock))  # set back while the job runs
    flags = ("--quality", "10", "--times", "0", "--protocol", "full-image")
    shutil.copytree(collection, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "tables"
    for _ in range(2):  # the second one finds a report among the images
        assert run(tmp_path, output, "--afd", "none", *flags) == 0
    report = json.loads((output / "report.json").read_text())
    assert (report["images"], len(report["left_out"])) == (4, 1)
    assert report["wall_s"] > 0
    assert report["drift"] == []
    assert all(row["direct"] == row["afd"] for row in report["tables"])
    images = pq.read_table(output / "images.parquet")
    for column in ("truth", "drift_angle_deg", "flip_probability"):
        assert images.column(column).null_count == len(images)
        assert images.schema.field(column).type in (pa.int64(), pa.float64())


def test_an_empty_folder_that_is_removed_meanwhile_costs_no_measurement(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new" / "out"

    def tidied(settings: EvaluateSettings) -> Evaluation:
        found = measure(settings)
        (output / STAGING).rmdir()
        output.rmdir()
        return found

    monkeypatch.setattr("jobs.evaluate.measure", tidied)
    assert run(collection, output, "--afd", "none", "--quality", "25", "--resamples", "9") == 0
    assert (output / "report.md").exists()


@pytest.mark.parametrize("refused", [".writable", "tables.parquet"])
def test_an_output_that_takes_no_file_costs_no_measurement(
    collection: Path,
    tmp_path: Path,
    refused: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is found out before; or, where it comes of a disk that fills meanwhile, told by then."""
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        replace(source, target)

    measured: list[Evaluation] = []
    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(
        "jobs.evaluate.measure", lambda s: measured.append(measure(s)) or measured[0]
    )
    assert run(collection, tmp_path, "--afd", "none", "--quality", "25", "--resamples", "9") == 1
    printed, said = capsys.readouterr()
    wanted = f"cannot write to the output folder {str(tmp_path)!r}: No space left on device"
    assert said.splitlines()[-1] == f"afd evaluate: {wanted}"
    assert bool(measured) == ("4 images, 1 left out" in printed) == (refused != ".writable")


def test_a_number_that_there_is_none_of_is_null(
    collection: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """SQL takes NaN for greater than any bound; a column of nulls alone keeps its type."""
    flags = ("--quality", "7", "100", "--times", "0", "--protocol", "full-image")
    assert run(collection, tmp_path, "--afd", str(checkpoint), *flags) == 0
    for name in ("images", "tables"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert not any(pa.types.is_null(kind) for kind in table.schema.types)
        for column in table.columns:
            if pa.types.is_floating(column.type):
                assert not pc.any(pc.is_nan(column)).as_py()
    clean = table.filter(pc.equal(table.column("row"), "clean"))
    assert clean.column("recovered").null_count == len(clean) > 0


def test_every_column_is_explained(collection: Path, tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs/output.md"
    _, section = page.read_text(encoding="utf-8").split("## What `afd evaluate` writes")
    explained = set(re.findall(r"`(\w+)`", section))
    assert run(collection, tmp_path, "--afd", "none", "--quality", "10", "--times", "0") == 0
    assert explained >= set(pq.read_schema(tmp_path / "images.parquet").names)
    tables = pq.read_schema(tmp_path / "tables.parquet").names
    assert explained >= {name for name in tables if not name.endswith(("_low", "_high"))}


def test_a_users_own_classes_have_an_accuracy(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"kind {k}\n" for k in range(1000)))
    shutil.copytree(collection, tmp_path / "photos/kind-7")
    flags = ("--quality", "10", "--times", "0", "--protocol", "full-image", "--afd", "none")
    output = tmp_path / "out"
    assert run(tmp_path / "photos", output, *flags, "--class-names", str(names)) == 0
    assert "one compression: top1, 4 images" in capsys.readouterr().out
    rows = pq.read_table(output / "images.parquet").to_pylist()
    assert {row["truth"] for row in rows} == {7}


@pytest.mark.parametrize("name", [MINIATURE, "timm:tinynet_e"])
def test_true_angles_are_those_of_the_files_that_compress_writes(
    name: str, collection: Path, tmp_path: Path
) -> None:
    """The same bytes are evaluated as `afd compress` writes: both protocols, seen as files.

    Through the backbone's own crop too: blocks of 8 pixels do not fill the 106 of TinyNet-E.
    """
    from afd_model.classifier import AFDClassifier
    from afd_model.drift import drift_angle_deg
    from pipeline.decode import DecodeOptions, Decoder
    from pipeline.pairs.recompress import compressed_file, open_rgb
    from pipeline.pixels.geometry import Geometry
    from pipeline.records import EncodedImage
    from pipeline.stage_clock import StageClock

    flags = ("--quality", "10", "--times", "0", "--precision", "fp32", "--num-images", "2")
    assert run(collection, tmp_path, "--backbone", name, "--afd", "none", *flags) == 0
    images = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert {row["name"] for row in images} == {"0.jpg", "2.jpg"}  # two of all, spread over them
    backbone = load_backbone(name, "none")
    preset = backbone.preprocessing
    data = (collection / "2.jpg").read_bytes()
    classifier = AFDClassifier(backbone, None)

    def stem(jpeg: bytes, resize: int | None) -> torch.Tensor:
        geometry = Geometry(resize, preset.crop, preset.interpolation, preset.mean, preset.std)
        decoder = Decoder(geometry, DecodeOptions(batch_size=1, num_threads=1, dct=False))
        size = open_rgb(jpeg).shape[:2]
        (batch,) = (
            b.pixels.clone()
            for b in decoder.decode([EncodedImage(0, jpeg, size=size)], StageClock())
        )
        with torch.no_grad():
            return classifier.bare(batch).stem_features

    window = Geometry.of_preset(preset, in_blocks=False)
    clean = stem(data, preset.resize)
    for protocol, resize in ((FULL_IMAGE, preset.resize), (IMAGENET_C, None)):
        jpeg = compressed_file(open_rgb(data), (10,), protocol=protocol, geometry=window)
        expected = drift_angle_deg(stem(jpeg, resize), clean).item()
        (row,) = (r for r in images if r["name"] == "2.jpg" and r["protocol"] == protocol.name)
        assert row["true_angle_deg"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality", "0"], "--quality 0 is not between 1 and 100"),
        (["--protocol", "imagenet"], "--protocol 'imagenet' is not one of"),
        (["--num-images", "some"], "--num-images 'some'"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["in", "--output", "out", *flags])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert message in error
    assert "\n" not in error


def test_a_collection_without_images_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    assert run(tmp_path / "a.jpg", tmp_path / "out") == 1
    assert "none of the 1 images can be evaluated; " in capsys.readouterr().err


def test_a_picture_that_is_too_large_is_left_out(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--quality", "10", "--times", "0", "--max-pixels", "8799")
    assert run(collection / "0.jpg", tmp_path, *flags) == 1
    assert "images can be evaluated; " in (told := capsys.readouterr().err)
    assert "8800 pixels" in told


def test_a_token_that_expires_is_one_line(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(expired, tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        "afd evaluate: HTTP 403 ExpiredToken: the credentials in the environment have expired\n"
    )
