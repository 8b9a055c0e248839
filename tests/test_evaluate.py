"""Evaluation: statistics against references, tables by hand, and the job on a few pictures."""

import json
import math
import shutil
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import MINIATURE, miniature_checkpoint
from jpegs import encode, photo

from afd_model.backbones import load_backbone
from afd_model.evaluation.evaluator import Outcome
from jobs.evaluate import main
from jobs.evaluate_settings import EvaluateSettings
from jobs.evaluation.folder_classes import UNKNOWN
from jobs.evaluation.tables import (
    DriftRow,
    Share,
    TableRow,
    drift_markdown,
    make_drift_table,
    make_tables,
    tables_markdown,
)
from pipeline.degrade import FULL_IMAGE, IMAGENET_C
from pipeline.pairs.evaluate_images import CLEAN, Condition
from pipeline.pairs.recompress import drawn_qualities


def outcome(direct: list[int], afd: list[int], **changes: np.ndarray) -> Outcome:
    count = len(direct)
    values = {
        "direct_top": np.array([[label, 99] for label in direct]),
        "afd_top": np.array([[label, 98] for label in afd]),
        "direct_confidence": np.full(count, 0.5, np.float32),
        "afd_confidence": np.linspace(0.1, 0.9, count),
        "drift_angle_deg": np.arange(count, dtype=np.float32),
        "true_angle_deg": np.arange(count, dtype=np.float32) ** 2,
        "flip_probability": np.linspace(1, 0, count),
    }
    return Outcome(**{**values, **changes})


LOW, LOWER = Condition(FULL_IMAGE, quality=25), Condition(FULL_IMAGE, quality=7)
OUTCOMES = {
    CLEAN: outcome([1, 2, 3, 4], [1, 2, 3, 4]),
    LOW: outcome([1, 2, 3, 0], [1, 2, 3, 4]),
    LOWER: outcome([1, 0, 0, 0], [1, 2, 0, 0]),
}


def test_tables_by_hand() -> None:
    truth = np.array([1, 2, 3, 9])
    rows = make_tables(OUTCOMES, truth, resamples=50, seed=0)
    found = {
        (r.metric, r.row): tuple(round(s.value, 4) for s in (r.direct, r.afd, r.gain, r.recovered))
        for r in rows
    }
    assert found["agreement", "QF 25"] == (0.75, 1.0, 0.25, 1.0)
    assert found["agreement", "QF 7"] == (0.25, 0.5, 0.25, 0.3333)
    assert found["agreement", "mean"] == (0.5, 0.75, 0.25, 0.5)
    assert found["top1", "QF 7"] == (0.25, 0.5, 0.25, 0.5)
    assert found["top1", "clean"][:3] == (0.75, 0.75, 0.0)
    assert math.isnan(found["top1", "clean"][3])
    for row in rows:
        for share in (row.direct, row.afd, row.gain):
            assert share.low <= share.value <= share.high
    assert rows[0].flat()["direct_low"] == rows[0].direct.low


def test_what_rounds_to_zero_has_no_sign() -> None:
    none, little = Share(0.5, 0.5, 0.5), Share(-0.00004, -0.00049, 0.1)
    row = TableRow("p", "quality", "top1", "QF 7", 400, none, none, little, none)
    assert "| 0.0 [0.0, 10.0] |" in "\n".join(tables_markdown([row]))
    drift = DriftRow("p", "QF 7", 400, 9, little, none, none, none, none)
    assert "| 0.000 [0.000, 0.100] |" in "\n".join(drift_markdown([drift]))


def test_where_compression_costs_nothing_no_share_of_it_is_recovered() -> None:
    """Nor has that share an interval, though some of the bootstrap's samples have lost labels."""
    truth = np.array([1, 2, 3, 4])
    worse_when_clean = {CLEAN: outcome([1, 2, 0, 0], [1, 2, 3, 0])}
    for direct, gain in (([1, 2, 3, 0], 0.25), ([1, 0, 3, 0], 0.5)):  # helped, and as before
        outcomes = worse_when_clean | {LOW: outcome(direct, [1, 2, 3, 4])}
        rows = make_tables(outcomes, truth, resamples=50, seed=0)
        row = next(r for r in rows if (r.metric, r.row) == ("top1", "QF 25"))
        assert row.gain.value == gain
        assert all(math.isnan(x) for x in astuple(row.recovered))
    assert math.isnan(make_drift_table(OUTCOMES, {LOW: 25, LOWER: 7}, seed=0)[0].flip_gain.low)


def test_accuracy_is_of_the_images_whose_class_is_known() -> None:
    """Which half of them suffices for; and each kind of compression has a table of its own."""
    random = Condition(FULL_IMAGE, times=1)
    clean = outcome([1, 2, 3, 4], [1, 2, 3, 0])  # agreement is with the bare backbone's
    outcomes = {CLEAN: clean, LOW: OUTCOMES[LOW], random: OUTCOMES[LOWER]}
    truth = np.array([1, 99, UNKNOWN, UNKNOWN])  # the second is `direct`'s second guess
    rows = make_tables(outcomes, truth, resamples=5, seed=0)
    found = {(r.metric, r.row): (r.direct.value, r.afd.value, r.images) for r in rows}
    assert found["top1", "QF 25"] == (0.5, 0.5, 2)
    assert found["top5", "QF 25"] == (1.0, 0.5, 2)
    assert found["agreement", "QF 25"] == (0.75, 1.0, 4)
    assert found["agreement", "clean"] == (1.0, 0.75, 4)
    names = [(r.table, r.row) for r in rows if r.metric == "agreement"]
    quality = [("quality", "QF 25"), ("quality", "mean"), ("quality", "clean")]
    assert names == [*quality, ("times", "1 random"), ("times", "mean"), ("times", "clean")]


def test_without_known_classes_there_is_agreement_alone() -> None:
    truth = np.array([1, UNKNOWN, UNKNOWN, UNKNOWN])
    assert {r.metric for r in make_tables(OUTCOMES, truth, resamples=5, seed=0)} == {"agreement"}


def test_drift_is_scored_within_a_quality_and_over_all() -> None:
    rows = {r.row: r for r in make_drift_table(OUTCOMES, {LOW: 25, LOWER: 7}, seed=0)}
    assert set(rows) == {"QF 25", "QF 7", "all"}
    assert rows["QF 7"].spearman.value == pytest.approx(1)
    assert (rows["QF 7"].flips, rows["all"].flips, rows["all"].images) == (2, 2, 8)
    assert math.isnan(rows["QF 25"].flip_probability.value)  # nothing flipped
    # The flips are the last two: the least flip probability, the greatest confidence.
    assert rows["QF 7"].flip_probability.value == 0
    assert rows["QF 7"].max_softmax.value == 0
    assert rows["QF 7"].header_quality.value == 0.5
    assert rows["QF 7"].flip_gain.value == -0.5
    assert rows["all"].header_quality.value > 0.6
    assert not math.isnan(rows["all"].flip_probability.low)  # the flips are of the second quality


def test_intervals_over_all_qualities_are_of_images() -> None:
    """The same outcome twice says no more than once: its interval is no narrower."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 3, 60).tolist()
    changes = {
        name: rng.random(60).astype(np.float32)
        for name in ("drift_angle_deg", "true_angle_deg", "afd_confidence", "flip_probability")
    }
    compressed = outcome(clean, rng.integers(0, 3, 60).tolist(), **changes)
    outcomes = {CLEAN: outcome(clean, clean), LOW: compressed, LOWER: compressed}
    rows = {r.row: r for r in make_drift_table(outcomes, {LOW: 7, LOWER: 7}, seed=0)}
    for name in ("spearman", "flip_probability", "flip_gain"):
        one, both = getattr(rows["QF 25"], name), getattr(rows["all"], name)
        assert astuple(both) == pytest.approx(astuple(one))


def test_random_compressions_alone_have_no_drift_table() -> None:
    random = Condition(FULL_IMAGE, times=2)
    outcomes = {CLEAN: OUTCOMES[CLEAN], random: OUTCOMES[LOW]}
    assert make_drift_table(outcomes, {}, seed=0) == []


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
    collection: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--quality", "25", "7", "--times", "1", "--batch-size", "3", "--precision", "fp32")
    assert run(collection, tmp_path, "--afd", str(checkpoint), *flags) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "report.md").read_text().strip()
    for title in ("full-image, one compression: agreement", "imagenet-c: drift"):
        assert f"## {title}" in printed
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["images"] == 4
    assert "the content is html" in report["left_out"][0]["error"]
    rows = pq.read_table(tmp_path / "tables.parquet").to_pylist()
    assert [r["row"] for r in rows[:4]] == ["QF 25", "QF 7", "mean", "clean"]
    clean = [r for r in rows if r["row"] == "clean"]
    assert all(r["direct"] == 1 for r in clean)
    images = pq.read_table(tmp_path / "images.parquet").to_pylist()
    assert len(images) == 4 * (1 + 2 * (2 + 1))
    of_clean = [r for r in images if r["condition"] == "clean"]
    assert all(r["true_angle_deg"] == 0 for r in of_clean)
    harsh = [r for r in images if r["condition"] == "QF 7"]
    assert min(r["true_angle_deg"] for r in harsh) > 0
    assert all(0 < r["flip_probability"] < 1 for r in harsh)
    drawn = next(r for r in images if r["name"] == "3.jpg" and r["condition"] == "1 random")
    assert tuple(drawn["qualities"]) == drawn_qualities("3.jpg", 0, 1)
    assert not list(tmp_path.glob("response_*"))  # nobody asked for the figure
    assert "response" not in printed


def test_without_a_module_the_columns_are_equal(collection: Path, tmp_path: Path) -> None:
    flags = ("--quality", "10", "--times", "0", "--protocol", "full-image")
    shutil.copytree(collection, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "tables"
    for _ in range(2):  # the second one finds a report among the images
        assert run(tmp_path, output, "--afd", "none", *flags) == 0
    report = json.loads((output / "report.json").read_text())
    assert (report["images"], len(report["left_out"])) == (4, 1)
    assert report["drift"] == []
    assert all(row["direct"] == row["afd"] for row in report["tables"])


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


def test_a_token_that_expires_is_one_line(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(expired, tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        "afd evaluate: HTTP 403 ExpiredToken: the credentials in the environment have expired\n"
    )
