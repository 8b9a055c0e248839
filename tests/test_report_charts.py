"""Charts: Vega-Lite that draws, and tables that say the same as the rows."""

import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from outputs import Made, rewrite, write_output

from jobs.labels_view import connect, list_parts
from jobs.reporting import charts, compare_charts
from jobs.reporting.compare import BEFORE, Comparison, compare
from jobs.reporting.queries import NOW, Findings, Trust, find, load
from jobs.reporting.run import Run, read_run
from jobs.reporting.vega_lite import Chart
from pipeline.output import OutputFolder

TRUST = Trust(sure=0.5, at_risk=0.2)


def findings(output: OutputFolder) -> Findings:
    with connect() as connection:
        load(connection, NOW, list_parts(output))
        return find(connection, output, TRUST, gallery=1)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    return write_output(tmp_path_factory.mktemp("out"), Made(images=2000, images_per_shard=200))


@pytest.fixture(scope="module")
def found(output: OutputFolder) -> Findings:
    return findings(output)


@pytest.fixture(scope="module")
def run(output: OutputFolder) -> Run:
    return read_run(output)


@pytest.fixture(scope="module")
def compared(output: OutputFolder, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    before = write_output(tmp_path_factory.mktemp("before"), Made(images=900, seed=3))
    with connect() as connection:
        load(connection, NOW, list_parts(output))
        load(connection, BEFORE, list_parts(before))
        return compare(connection, (before, output), findings(output), TRUST, examples=1)


def column(chart: Chart, name: str) -> list[str]:
    return [row[chart.columns.index(name)] for row in chart.rows]


def total(chart: Chart, name: str) -> int:
    return sum(int(text.replace(",", "")) for text in column(chart, name))


def test_every_chart_draws(found: Findings, run: Run, compared: Comparison) -> None:
    made = [
        charts.confidence(found, TRUST),
        charts.quality(found),
        charts.subsampling(found),
        charts.confidence_by_quality(found),
        charts.trusted_by_quality(found, TRUST),
        charts.drift(found),
        charts.flips(found, TRUST),
        charts.speed(run),
        charts.stages(run),
        compare_charts.changed_by_quality(compared),
        compare_charts.quality_shift(compared.before, found),
        compare_charts.drift_shift(compared.before, found),
    ]
    assert len({chart.name for chart in made if chart}) == len(made)
    for chart in made:
        assert chart is not None
        drawing = vl_convert.vegalite_to_svg(chart.spec)
        assert drawing.count("<path") > 5
        assert "var(--" in drawing
        assert chart.caption.endswith(".")
        assert {len(row) for row in chart.rows} == {len(chart.columns)}


def test_the_tables_count_every_image(found: Findings) -> None:
    labelled = found.total("labelled")
    assert total(charts.confidence(found, TRUST), "images") == labelled
    known = found.total("images") - found.by("quality")[0]
    assert total(charts.quality(found), "images") == known
    assert total(charts.subsampling(found), "images") == found.total("images")
    by_band = charts.trusted_by_quality(found, TRUST)
    assert total(by_band, "labels") <= labelled
    assert total(charts.drift(found), "images") == int(found.angles[1:].sum())


def test_every_cell_of_the_density_is_inside(found: Findings) -> None:
    spec = charts.drift(found).spec
    cells: list[dict[str, Any]] = spec["layer"][0]["data"]["values"]
    bands: dict[str, float] = {}
    for cell in cells:
        assert 0 <= cell["low"] < cell["high"]
        bands[cell["quality"]] = bands.get(cell["quality"], 0) + cell["share"]
    assert len(bands) == 20
    assert all(share == pytest.approx(1) for share in bands.values())


def sparse(folder: Path) -> Findings:
    """Two bands of quality far apart, one of them with three images."""
    output = write_output(folder, Made(images=60, bad_share=0))
    left = iter(range(60))

    def choose(row: dict[str, Any]) -> None:
        row["jpeg_quality"] = 8 if next(left) < 57 else 93

    rewrite(output, 0, choose)
    return findings(output)


def values_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = spec["data"]["values"]
    return values


def test_no_line_crosses_qualities_that_no_image_has(tmp_path: Path) -> None:
    found = sparse(tmp_path)
    flips = values_of(charts.flips(found, TRUST).spec)
    assert [row["value"] is None for row in flips] == [False, True, False] * 2
    medians = charts.drift(found).spec["layer"][-1]
    for spec in (medians, charts.confidence_by_quality(found).spec):
        values = values_of(spec)
        assert [row["middle"] for row in values] == [8, 13, 93]
        assert [row["median"] is None for row in values] == [False, True, False]


def test_a_share_of_few_labels_is_pale(tmp_path: Path) -> None:
    chart = charts.trusted_by_quality(sparse(tmp_path), TRUST)
    assert chart.caption.endswith("Pale: a share of fewer than 20.")
    drawing = vl_convert.vegalite_to_svg(chart.spec)
    assert drawing.count('opacity="0.4"') == 1
    assert charts.pale([{"images": 20}]) == ""


def texts(chart: Chart) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", vl_convert.vegalite_to_svg(chart.spec))


def test_the_axes_of_small_numbers(tmp_path: Path) -> None:
    """Whole images, and shares below a percent that can be told apart."""
    three = findings(write_output(tmp_path / "three", Made(images=3, bad_share=0)))
    assert "0.2" not in texts(charts.quality(three))
    assert texts(charts.quality(three))[-3:-1] == ["0", "1"]
    shares = [text for text in texts(charts.flips(three, TRUST)) if text.endswith("%")]
    assert len(shares) == len(set(shares)) > 2
    many = findings(write_output(tmp_path / "many", Made(images=12_000)))
    assert "200" in texts(charts.quality(many))  # not 0.2k


def test_the_legend_names_every_step_of_the_density(found: Findings) -> None:
    shown = " ".join(texts(charts.drift(found)))
    assert all(f"{percent}%" in shown for percent in (1, 2, 5, 10, 20, 40))


def test_medians_fall_as_quality_rises(found: Findings) -> None:
    medians = [float(text.rstrip("°")) for text in column(charts.drift(found), "median")]
    assert medians[0] > 3 * medians[-1]


def test_speed_is_in_a_readable_unit(run: Run) -> None:
    chart = charts.speed(run)
    assert chart is not None
    assert chart.columns == ("seconds of work", "images/s")
    hours = [
        type(part)(part.rows, 3000.0 * k, tuple(300 * s for s in part.seconds))
        for k, part in enumerate(run.times)
    ]
    slow = charts.speed(Run(**{**vars(run), "times": hours}))
    assert slow is not None
    assert slow.columns[0] == "hours of work"


def test_a_run_that_does_not_say_when_has_no_charts(run: Run) -> None:
    unknown = Run(**{**vars(run), "times": []})
    assert charts.speed(unknown) is None
    assert charts.stages(unknown) is None


def test_runs_without_drift_are_not_compared_by_it(found: Findings, tmp_path: Path) -> None:
    plain = findings(write_output(tmp_path, Made(images=50, has_drift=False)))
    assert compare_charts.drift_shift(plain, found) is None
    assert compare_charts.quality_shift(plain, found) is not None


def test_where_no_quality_is_known(found: Findings, tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=30))

    def forget(row: dict[str, Any]) -> None:
        row["jpeg_quality"] = None

    rewrite(output, 0, forget)
    assert compare_charts.quality_shift(found, findings(output)) is None
