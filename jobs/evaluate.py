"""`afd evaluate`: the paper's tables for a classifier, a module and a collection."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.command_line import parse
from jobs.evaluate_settings import EvaluateSettings
from jobs.evaluation.angles import (
    AngleStudy,
    angles_markdown,
    bins_table,
    points_table,
    summaries,
)
from jobs.evaluation.drift_table import DriftRow, drift_markdown, make_drift_table
from jobs.evaluation.folder_classes import UNKNOWN
from jobs.evaluation.measure import Evaluation, measure
from jobs.evaluation.shares import FEWEST_IMAGES, condition_name
from jobs.evaluation.tables import TableRow, make_tables, tables_markdown
from jobs.exits import EXIT_COMPLETE, print_answer
from jobs.extras import require
from jobs.quantities import finite
from jobs.run_job import run_job
from jobs.run_record import versions
from pipeline.output import OutputError, OutputFolder

REPORT, JSON, TABLES, IMAGES = "report.md", "report.json", "tables.parquet", "images.parquet"
ANGLES, ANGLE_BINS = "response_angles.parquet", "response_angle_bins.parquet"
ANGLE_FIGURE = "response_angles.png"
_FIGURE_DPI = 200
_IMAGE_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "protocol": pa.string(),
        "condition": pa.string(),
        "qualities": pa.list_(pa.int64()),
        "truth": pa.int64(),
        "direct_labels": pa.list_(pa.int64()),
        "afd_labels": pa.list_(pa.int64()),
        "direct_confidence": pa.float64(),
        "afd_confidence": pa.float64(),
        "drift_angle_deg": pa.float64(),
        "true_angle_deg": pa.float64(),
        "flip_probability": pa.float64(),
    }
)


def evaluate(settings: EvaluateSettings) -> str:
    """Measure and write the report; returns it as Markdown.

    Raises ValueError, worded for the user: OutputError when it cannot be written, after printing
    it, so that hours of measuring are not lost.
    """
    began = time.monotonic()
    settings = settings.located()
    if settings.figures:
        require("figures", "matplotlib")
    output = OutputFolder(settings.output)
    _ = output.path  # raises for a bucket
    output.prepare()
    found = measure(settings)
    tables, drift = _tables(settings, found)
    lines = [_head(found), *tables_markdown(tables), *drift_markdown(drift)]
    if found.angles is not None:
        lines += angles_markdown(found.angles, ANGLE_FIGURE)
    report = "\n".join(lines)
    facts = _facts(settings, found, tables, drift) | {"wall_s": round(time.monotonic() - began, 1)}
    try:
        output.prepare()  # somebody may have removed the empty folder
        with output.first_write():
            _write(output, found, tables, facts, report)
    except OutputError:
        print_answer(report)
        raise
    return report


def _tables(settings: EvaluateSettings, found: Evaluation) -> tuple[list[TableRow], list[DriftRow]]:
    trained = found.model["has_trained_module"]
    drawn = {"resamples": settings.resamples, "seed": settings.seed}
    tables = make_tables(found.outcomes, found.truth, trained=trained, **drawn)
    if not trained:
        return tables, []
    stated = {
        c: c.protocol.stated_quality([c.quality])
        for c in found.outcomes
        if c.protocol is not None and c.quality is not None
    }
    return tables, make_drift_table(found.outcomes, stated, **drawn)


def _write(
    output: OutputFolder,
    found: Evaluation,
    tables: Sequence[TableRow],
    facts: dict[str, Any],
    report: str,
) -> None:
    if found.angles is not None:
        _write_angles(output, found.angles, found.model)
    _write_parquet(output, TABLES, pa.Table.from_pylist([row.flat() for row in tables]))
    _write_parquet(output, IMAGES, pa.Table.from_pylist(_image_rows(found), _IMAGE_SCHEMA))
    output.write_json(JSON, finite(facts))
    output.write(REPORT, report.encode("utf-8"))


def _head(found: Evaluation) -> str:
    model = found.model
    module = (
        model["afd"] if model["has_trained_module"] else "none (AFD columns equal the direct test)"
    )
    return (
        f"# {model['backbone']} ({model['weights']}), AFD-Module: {module}\n\n"
        f"{len(found.names)} images, {len(found.left_out)} left out. Percent of images; 95 %"
        " intervals by paired bootstrap. direct test: without the module. agreement: with the bare"
        " backbone's label for the clean picture. recovered: gain, as a share of what compression"
        f" costs the direct test. –: not defined, or of fewer than {FEWEST_IMAGES} images.\n"
    )


def _facts(
    settings: EvaluateSettings,
    found: Evaluation,
    tables: Sequence[TableRow],
    drift: Sequence[DriftRow],
) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "model": found.model,
        "images": len(found.names),
        "left_out": [{"uri": uri, "error": error} for uri, error in found.left_out],
        "tables": [asdict(row) for row in tables],
        "drift": [asdict(row) for row in drift],
        "response_angles": [] if found.angles is None else summaries(found.angles),
        "versions": versions(),
    }


def _image_rows(found: Evaluation) -> list[dict[str, Any]]:
    """One row per image and condition."""
    truth = [None if label == UNKNOWN else label for label in found.truth.tolist()]
    has_drift = found.model["has_trained_module"]
    rows = []
    for condition, outcome in found.outcomes.items():
        protocol = condition.protocol.name if condition.protocol else None
        for k, name in enumerate(found.names):
            rows.append(
                {
                    "name": name,
                    "protocol": protocol,
                    "condition": condition_name(condition),
                    "qualities": list(condition.qualities(name, found.seed)),
                    "truth": truth[k],
                    "direct_labels": outcome.direct_top[k].tolist(),
                    "afd_labels": outcome.afd_top[k].tolist(),
                    "direct_confidence": float(outcome.direct_confidence[k]),
                    "afd_confidence": float(outcome.afd_confidence[k]),
                    "drift_angle_deg": float(outcome.drift_angle_deg[k]) if has_drift else None,
                    "true_angle_deg": float(outcome.true_angle_deg[k]),
                    "flip_probability": float(outcome.flip_probability[k]),
                }
            )
    return rows


def _write_angles(output: OutputFolder, study: AngleStudy, model: dict[str, Any]) -> None:
    from jobs.drawing.angle_figure import angle_figure  # matplotlib is an extra
    from jobs.drawing.figures import write_png

    name = f"{model['backbone']}, AFD-Module: {os.path.basename(model['afd'])}"
    write_png(angle_figure(study, name), output.path / ANGLE_FIGURE, _FIGURE_DPI)
    _write_parquet(output, ANGLES, points_table(study))
    _write_parquet(output, ANGLE_BINS, bins_table(study))


def _write_parquet(output: OutputFolder, name: str, table: pa.Table) -> None:
    """NaN becomes null: in SQL, NaN is greater than every number."""
    columns = [
        pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    table = pa.table(columns, names=table.column_names)
    # Opened here: pyarrow does not say why it cannot write.
    with output.staged(name) as temporary, open(temporary, "wb") as file:
        pq.write_table(table, file, compression="zstd")


def main(arguments: Sequence[str]) -> int:
    """`afd evaluate`: exit code 0 with a report, 1 when it could not be made, 2 for bad usage."""
    settings = parse(EvaluateSettings, arguments, prog="afd evaluate")
    return run_job("afd evaluate", lambda: _run(settings))


def _run(settings: EvaluateSettings) -> int:
    print_answer(evaluate(settings))
    return EXIT_COMPLETE
