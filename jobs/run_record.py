"""run.json: what a run is, so that the same command continues it and another one is refused."""

from __future__ import annotations

import uuid
from typing import Any

from jobs.settings import LabelSettings
from pipeline.output import RUN, OutputError, OutputFolder
from pipeline.records import SCHEMA_VERSION


def open_run(output: OutputFolder, settings: LabelSettings) -> dict[str, Any] | None:
    """The record of the run in the output folder, or None when there is none.

    Raises OutputError when the folder holds another run, or something else altogether.
    """
    record = output.read_json(RUN)
    if record is None:
        if any(output.labels.glob("part-*.parquet")):
            raise OutputError(
                f"{str(output.path)!r} holds labels but no {RUN}: choose another --output"
            )
        return None
    _require_same(output, "settings", record.get("settings", {}), settings.row_settings)
    return record


def start_run(
    output: OutputFolder, settings: LabelSettings, model: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """Record a new run; it is written after the plan, so a run that has a record has a plan."""
    record = {
        "run_id": uuid.uuid4().hex,
        "schema_version": SCHEMA_VERSION,
        "settings": settings.row_settings,
        "model": model,
        "versions": versions,
    }
    output.write_json(RUN, record)
    return record


def require_same_model(output: OutputFolder, record: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse to continue with weights that have changed under the same name."""
    _require_same(output, "model", record.get("model", {}), model)


def _require_same(
    output: OutputFolder, what: str, before: dict[str, Any], now: dict[str, Any]
) -> None:
    differences = [
        f"{name.replace('_', '-')} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise OutputError(
            f"{str(output.path)!r} holds a run with another {what}: {'; '.join(differences)}."
            " Use the same, or another --output"
        )
