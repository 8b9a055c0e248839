"""`afd evaluate --figures`: the paper's Fig. 4, drawn, as numbers, and in the report."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import MINIATURE, miniature_checkpoint
from jpegs import encode, photo
from PIL import Image

from afd_model.evaluation.response_angles import BlockAngles
from afd_model.evaluation.statistics import spearman
from jobs.evaluate import main
from jobs.evaluation.angles import (
    QUALITIES,
    AngleStudy,
    _joined,
    angles_markdown,
    bins_table,
    curves_of,
    points_table,
)

FIXED = ("--backbone", MINIATURE, "--weights", "none", "--device", "cpu", "--threads", "1")
SMALL = ("--quality", "10", "--times", "0", "--protocol", "imagenet-c", "--resamples", "5")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    for k in range(3):
        (folder / f"{k}.jpg").write_bytes(encode(photo(80, 110, k), quality=95))
    (folder / "bad.jpg").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_checkpoint(tmp_path_factory.mktemp("afd"))


def run(collection: Path, output: Path, *flags: str) -> int:
    threads = torch.get_num_threads()
    try:
        return main([str(collection), "--output", str(output), *FIXED, *SMALL, *flags])
    finally:
        torch.set_num_threads(threads)


def test_the_figure_stands_in_the_report_with_its_numbers(
    collection: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert run(collection, tmp_path, "--figures", "--afd", str(checkpoint)) == 0
    with Image.open(tmp_path / "response_angles.png") as figure:
        assert figure.width > 1000
    report = (tmp_path / "report.md").read_text()
    assert "](response_angles.png)" in report
    points = pq.read_table(tmp_path / "response_angles.parquet")
    assert points.num_rows == 3 * 20 * 20 * len(QUALITIES)
    assert set(points["name"].to_pylist()) == {"0.jpg", "1.jpg", "2.jpg"}
    summaries = json.loads((tmp_path / "report.json").read_text())["response_angles"]
    assert [(s["quality"], s["features"]) for s in summaries] == [
        (quality, features) for quality in QUALITIES for features in ("direct", "enhanced")
    ]
    for summary in summaries:
        mine = points.filter(np.asarray(points["quality"]) == summary["quality"])
        x, y = (
            mine[f"{name}_angle_deg"].to_numpy().astype(float)
            for name in ("dct", summary["features"])
        )
        assert summary["spearman"] == pytest.approx(spearman(x, y), abs=1e-4)
        row = f"{summary['spearman']:.3f} | {summary['median_deg']:.2f}°"
        assert f"| QF {summary['quality']} | {summary['features']} | 1200 | {row} |" in report
    bins = pq.read_table(tmp_path / "response_angle_bins.parquet").to_pylist()
    assert sum(row["blocks"] for row in bins) == 2 * points.num_rows


def test_without_a_module_blocks_fill_the_crop_all_the_same(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """104 pixels, where the tables are of TinyNet-E's own 106."""
    monkeypatch.setattr("jobs.evaluation.angles.MAX_IMAGES", 2)
    assert run(collection, tmp_path, "--figures", "--backbone", "timm:tinynet_e") == 0
    points = pq.read_table(tmp_path / "response_angles.parquet")
    assert points.num_rows == 2 * 13 * 13 * len(QUALITIES)
    assert points["enhanced_angle_deg"].null_count == points.num_rows


def test_without_matplotlib_it_says_so_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(tmp_path / "gone", tmp_path / "out", "--figures") == 1
    assert "pip install 'afd-label[figures]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def study() -> AngleStudy:
    rng = np.random.default_rng(0)
    grids = rng.uniform(0, 30, (2, 2, 3, 4)).astype(np.float32)
    angles = {q: BlockAngles(x, x / 2, None) for q, x in zip((10, 50), grids, strict=True)}
    return AngleStudy(["a", "b"], angles, curves_of(angles))


def test_batches_without_a_module_have_no_enhanced_angles() -> None:
    (first, second) = study().angles.values()
    both = _joined([first, second])
    np.testing.assert_array_equal(both.direct_deg[2:], second.direct_deg)
    assert both.enhanced_deg is None


def test_a_point_is_one_block_of_one_image() -> None:
    found = study()
    rows = points_table(found).to_pylist()
    assert len(rows) == 2 * 2 * 3 * 4
    for row in rows:
        place = ("ab".index(row["name"]), row["block_row"], row["block_column"])
        angles = found.angles[row["quality"]]
        assert row["dct_angle_deg"] == angles.dct_deg[place]
        assert row["direct_angle_deg"] == angles.direct_deg[place]
        assert row["enhanced_angle_deg"] is None  # without a module


def test_curves_are_summed_up() -> None:
    found = study()
    assert [c.features for c in found.curves] == ["direct", "direct"]
    assert [c.spearman for c in found.curves] == pytest.approx([1, 1])
    assert [c.median_deg for c in found.curves] == pytest.approx(
        [np.median(found.angles[q].direct_deg) for q in (10, 50)]
    )
    bins = bins_table(found).to_pylist()
    assert {row["quality"] for row in bins} == {10, 50}
    assert sum(row["blocks"] for row in bins) == 2 * 24
    assert "| QF 10 | direct | 24 | 1.000 |" in "\n".join(angles_markdown(found, "x.png"))
