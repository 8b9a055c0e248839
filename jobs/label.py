"""`afd label`: plan, label, check. `label(LabelSettings(...))` does the same from Python."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from jobs.command_line import parse
from jobs.exits import EXIT_COMPLETE, EXIT_FAILED, SAME_COMMAND_CONTINUES, print_answer
from jobs.labelling.dry_run import dry_run
from jobs.labelling.messages import CommitRecord
from jobs.labelling.progress import Progress
from jobs.labelling.summary import (
    COMPLETE,
    FAILED,
    NOT_LABELLED,
    Summary,
    Tally,
    committed_shards,
    finished_summary,
    summarise,
    write_summary,
)
from jobs.labelling.workers import check_address, label_shards
from jobs.log import say
from jobs.pool import ClusterError, MistakeError
from jobs.run_job import cannot_go_on, run_job
from jobs.run_record import join_run, model_differences, open_run, record_model
from jobs.settings import LabelSettings
from pipeline.audit import remove_damaged, stray_parts
from pipeline.output import LABELS, OutputFolder
from pipeline.own_files import own_files
from pipeline.presence import Presence
from pipeline.records import ImageRef
from pipeline.shards import Plan
from pipeline.sources import list_images
from pipeline.stores.errors import AccessError, ShutdownError


def label(settings: LabelSettings) -> Summary:
    """Label a collection, or continue an earlier run with the same settings.

    Raises ValueError or ClusterError, worded for the user, when the run cannot start; OSError or
    AccessError when the input or the output cannot be used. Other errors, and an interrupt, are in
    the summary, which is then not `complete`; committed shards stay.
    """
    began = time.monotonic()
    settings = settings.located()
    output = OutputFolder(settings.output)
    record = open_run(output, settings)
    if record is not None and settings.verify:
        for name, reason in remove_damaged(output):
            say(f"{name} is damaged and will be labelled again: {reason}")
        for name in stray_parts(output, output.modification_times(LABELS)):
            say(f"{name} is of no shard of the run: remove it, or other readers will count it")
    if record is not None and (summary := finished_summary(output)):
        say(f"{output.location} is complete ({summary.images} images): nothing to do")
        return summary
    check_address(settings)
    refs = list_images(settings.input, own_files(settings.input, output))
    if record is None:
        refs = itertools.chain([next(refs)], refs)  # raises before anything is created
    output.create()
    with Presence(output) as presence:
        summary = _label(settings, output, presence, refs, began)
        with suppress(OSError, AccessError):  # leftovers do no harm
            if not presence.others():
                output.clean()
    return summary


def _label(
    settings: LabelSettings,
    output: OutputFolder,
    presence: Presence,
    refs: Iterator[ImageRef],
    began: float,
) -> Summary:
    others = presence.others()
    for driver in others:
        say(f"another driver is labelling to {output.location} ({driver}): sharing the work")
    if not others:
        output.clean()
    record = join_run(output, settings, presence, refs)
    sizes = Plan(output).shard_sizes
    done = committed_shards(output, len(sizes))
    if done:
        say(f"continuing: {len(done)} of {len(sizes)} shards are labelled already")
    todo = [shard for shard in range(len(sizes)) if shard not in done]
    if others:
        todo.reverse()  # the other driver starts at the beginning
    tally = Tally()
    exit_reason = COMPLETE
    try:
        with Progress(sum(sizes), sum(sizes[shard] for shard in done), settings.progress) as bar:
            for commit in label_shards(settings, record, todo, presence.name):
                tally.add(commit, sizes[commit.shard])
                if record_model(output, record, commit.model):
                    _warn_if_none_ships(settings, commit.model)
                _refuse_other_model(record, commit)
                bar.add(sizes[commit.shard], commit)
    except KeyboardInterrupt:
        exit_reason = "interrupted"
    except (ClusterError, MistakeError) as error:
        if tally == Tally():  # nothing is labelled: the run did not start
            raise
        # `_print_result` adds it to every reason.
        exit_reason = str(error).removesuffix(SAME_COMMAND_CONTINUES)
    summary = summarise(output, record["run_id"], tally, began=began, exit_reason=exit_reason)
    write_summary(output, summary)
    return summary


def _refuse_other_model(record: dict[str, Any], commit: CommitRecord) -> None:
    """Workers that start together do not know each other's model; the first to commit decides.

    Raises ClusterError for another model. `summarise` removes its parts: there may be more than
    this one, as its worker labels the next meanwhile.
    """
    if commit.model and (changed := model_differences(record["model"], commit.model)):
        raise ClusterError(f"a worker's model is not the one the run started with: {changed}")


def _warn_if_none_ships(settings: LabelSettings, model: dict[str, Any]) -> None:
    if settings.afd == "default" and model["afd"] == "none":
        say(
            f"no trained AFD-Module ships for {model['backbone']}: the labels are the backbone's"
            " own, the drift columns are null"
        )


def main(arguments: Sequence[str]) -> int:
    """`afd label`: exit code 0 when every shard is committed, 1 when not, 2 for bad usage.

    A dry run ends with 0 when it could make its estimate.
    """
    settings = parse(LabelSettings, arguments, prog="afd label")
    return run_job(
        "afd label",
        lambda: _run(settings),
        errors=(ClusterError,),  # before anything is labelled, so there is no run to continue
        continued="" if settings.dry_run else SAME_COMMAND_CONTINUES,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


def _run(settings: LabelSettings) -> int:
    if settings.dry_run:
        print_answer(dry_run(settings))
        return EXIT_COMPLETE
    try:
        summary = label(settings)
    except ShutdownError as error:
        raise KeyboardInterrupt from error  # it is what the request was abandoned for
    except (OSError, AccessError) as error:
        raise cannot_go_on(settings.output, error) from error
    _print_result(summary)
    return EXIT_COMPLETE if summary.complete else EXIT_FAILED


def _print_result(summary: Summary) -> None:
    """Print how many images are labelled, which shards failed and why, and how to go on."""
    bad = {status: count for status, count in summary.counts.items() if count and status != "ok"}
    say(
        f"{summary.images} of {summary.planned_images} images in {summary.output}"
        + "".join(f", {count} {status}" for status, count in bad.items())
        + f"; {summary.images_per_s} images/s",
        **asdict(summary),
    )
    for name, reason in summary.failed.items():
        # A run that was interrupted may have a hundred thousand unlabelled shards: not a line each.
        if reason != NOT_LABELLED or summary.exit_reason == FAILED:
            say(f"afd label: {name}: {reason}", level=logging.ERROR)
    if not summary.complete:
        say(f"afd label: {summary.exit_reason}{SAME_COMMAND_CONTINUES}", level=logging.ERROR)
