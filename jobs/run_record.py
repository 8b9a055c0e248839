"""run.json: a run's settings and model; only a command with the same ones may continue it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs.labelling.mounts import check_output_remains
from jobs.settings import LabelSettings
from pipeline.output import LABELS, RUN, OutputError, OutputFolder
from pipeline.presence import Presence
from pipeline.records import SCHEMA_VERSION, ImageRef
from pipeline.shards import is_part, write_plan

_RECORDED_PACKAGES = (
    *("afd-label", "nvidia-dali-cuda130", "numba", "openvino", "pillow", "pyarrow", "ray", "timm"),
    *("torch", "torchvision", "turbojpeg"),
)
# Facts of the model that decide the rows, in run.json and every part. The last is only of a
# checkpoint whose flip model this release cannot run.
MODEL_FACTS = (
    *("backbone", "weights", "weights_sha256", "stem_layer", "afd", "afd_sha256"),
    *("class_names_sha256", "flip_model"),
)
_POLL_S = 0.5


def open_run(output: OutputFolder, settings: LabelSettings) -> dict[str, Any] | None:
    """The record of the run in the output folder; None when there is none.

    A run that has committed nothing may be started again with other settings: None for it too.
    Raises OutputError when the folder holds a run with other settings or of another schema version,
    another job's output, or labels of no known run.
    """
    record = output.read_json(RUN)
    if record is not None:
        check_job(output, record, "run_id")
    if not any(is_part(name) for name in output.modification_times(LABELS)):
        return record if record and _continues(record, settings) else None
    if record is None:
        raise OutputError(f"{output.location!r} holds labels but no {RUN}: choose another --output")
    refuse_other_settings(output, record["settings"], settings.content_settings)
    if (found := record.get("schema_version")) != SCHEMA_VERSION:
        raise OutputError(
            f"{output.location!r} holds rows of schema version {found}, and this release writes"
            f" version {SCHEMA_VERSION}: use the release that began it, or another --output"
        )
    return record


def _continues(record: Mapping[str, Any], settings: LabelSettings) -> bool:
    found = (record.get("settings"), record.get("schema_version"))
    return found == (settings.content_settings, SCHEMA_VERSION)


def check_job(output: OutputFolder, record: Mapping[str, Any], key: str) -> None:
    """Raise OutputError when a record was written by another job.

    key: a name that only this job's record, or its settings, contains.
    """
    settings = record.get("settings")
    if not isinstance(settings, dict) or key not in {**record, **settings}:
        raise OutputError(
            f"'{output.location}/{RUN}' belongs to another job: choose another --output"
        )


def join_run(
    output: OutputFolder,
    settings: LabelSettings,
    presence: Presence,
    refs: Iterator[ImageRef],
) -> dict[str, Any]:
    """The run's record. The first driver writes the plan of `refs`; others wait for it.

    Raises the errors of `open_run`, and those of listing the input.
    """
    while True:
        leads = presence.leads()
        # Only now: the driver that led before may have started the run, and ended.
        if (record := open_run(output, settings)) is not None:
            return record
        if leads:
            write_plan(output, refs, settings.images_per_shard)
            return start_run(output, settings)
        time.sleep(_POLL_S)


def start_run(output: OutputFolder, settings: LabelSettings) -> dict[str, Any]:
    """Record a new run. Call it after the plan is written: a run with a record has a plan."""
    record = {
        "run_id": uuid.uuid4().hex,
        "schema_version": SCHEMA_VERSION,
        "settings": settings.content_settings,
        "model": None,
        "versions": versions(),
    }
    output.write_json(RUN, record)
    return record


def record_model(output: OutputFolder, record: dict[str, Any], model: dict[str, Any]) -> bool:
    """Record the model that the first worker loaded; a continued run must load the same.

    Returns False when it was recorded before, also by another driver: `record` then has that one.
    Raises OutputGoneError when the output is gone.
    """
    if record["model"] is not None or not model:
        return False
    check_output_remains(output, record["run_id"])
    if recorded := (output.read_json(RUN) or {}).get("model"):
        record["model"] = recorded
        return False
    record["model"] = model
    output.write_json(RUN, record)
    return True


def versions() -> dict[str, str]:
    """The installed versions of the packages that labels depend on; does not import them."""
    found = {}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a driver may lack packages that only workers need
            continue
    return found


def refuse_other_settings(
    output: OutputFolder, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raise OutputError when the settings differ from those the run started with."""
    if changed := differences(before, now):
        raise OutputError(
            f"{output.location!r} holds a run with other settings: {changed}."
            " Use the same, or another --output"
        )


def check_model(record: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raise ValueError when a loaded model is not the one that the run has recorded, if it has."""
    if (expected := record.get("model")) and (changed := model_differences(expected, model)):
        raise ValueError(
            f"the model is not the one the run started with: {changed}. Use the release and the"
            " weights that began it, or another --output"
        )


def model_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two models' facts, in words; empty when nothing does.

    Paths of weights with equal digests are ignored: another node or environment may have the same
    file in another folder.
    """
    same_content = {
        name
        for name in ("weights", "afd")
        if (digest := now.get(f"{name}_sha256")) and digest == before.get(f"{name}_sha256")
    }
    before, now = (
        {name: value for name, value in model.items() if name not in same_content}
        for model in (before, now)
    )
    return differences(before, now)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two mappings, in words; empty when nothing does."""
    return "; ".join(
        f"{name.replace('_', '-')} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )
