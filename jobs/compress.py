"""`afd compress`: a collection -> the paper's test sets as JPEG files, with a manifest."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.command_line import parse
from jobs.compress_settings import CompressSettings
from jobs.exits import EXIT_COMPLETE, SAME_COMMAND_CONTINUES
from jobs.log import say, with_progress
from jobs.quantities import size
from jobs.run_job import output_on_disk, run_job
from jobs.run_record import check_job, refuse_other_settings
from pipeline.inputs.image_names import collection_root
from pipeline.inputs.local_files import absolute_pattern, list_folder
from pipeline.output import RUN, SUMMARY, OutputError, OutputFolder
from pipeline.own_files import list_images_outside
from pipeline.pairs.compressed_sets import MANIFEST_SCHEMA, plan_images, set_qualities, write_files
from pipeline.records import ImageRef
from pipeline.stores.errors import is_content_error

MANIFEST = "manifest.parquet"
_CHUNK_IMAGES = 256  # an interrupt waits for one chunk at most


def compress_collection(settings: CompressSettings) -> dict[str, Any]:
    """Write the missing files of the sets; returns the content of the output's summary.json.

    A file that is older than its original on a disk is written again. The manifest and the summary
    describe all sets in the output, also those of earlier runs. A bad image is left out of every
    set and named in the manifest.

    Raises ValueError, worded for the user, when the job cannot start; OSError when a file cannot be
    written.
    """
    began = time.monotonic()
    output = OutputFolder(settings.output)
    refs = list_images_outside(settings.input, output)
    _open(output, settings)
    rows = [*_earlier_rows(output, settings), *_rows(refs, output, settings)]
    # Opened here: pyarrow does not say why it cannot write.
    with output.staged(MANIFEST) as temporary, open(temporary, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), file, compression="zstd")
    good = [row for row in rows if "path" in row]
    _name_strays(output, {row["path"] for row in good})
    summary = {
        "output": str(output.path),
        "images": len(refs),
        "bad": dict(sorted(Counter(row["status"] for row in rows if "path" not in row).items())),
        "sets": dict(sorted(Counter(row["set"] for row in good).items())),
        "num_bytes": sum(row["num_bytes"] for row in good),
        "wall_s": round(time.monotonic() - began, 3),
    }
    output.write_json(SUMMARY, summary)
    return summary


def _open(output: OutputFolder, settings: CompressSettings) -> None:
    """Start or continue an output. Raises OutputError when it was made with other settings."""
    now = replace(settings, input=absolute_pattern(settings.input)).content_settings
    record = output.read_json(RUN)
    if record is not None:
        check_job(output, record, "subsampling")
        refuse_other_settings(output, record["settings"], now)
    with output.first_write():
        output.path.mkdir(parents=True, exist_ok=True)  # `path` raises for a bucket
        output.clean()
        output.write_json(RUN, {"settings": now})


def _earlier_rows(output: OutputFolder, settings: CompressSettings) -> list[dict[str, Any]]:
    """The manifest's rows of sets that this run does not write, as far as their files exist."""
    manifest = output.path / MANIFEST
    if not manifest.is_file():
        return []
    try:
        rows = pq.read_table(manifest, schema=MANIFEST_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        if not is_content_error(error):
            raise
        raise OutputError(f"cannot read {str(manifest)!r} ({error}): remove it") from error
    now = set(set_qualities(settings.recipe(), ""))
    rows = [row for row in rows if row["path"] is not None and row["set"] not in now]
    return [row for row in rows if (output.path / row["path"]).is_file()]


def _name_strays(output: OutputFolder, paths: set[str]) -> None:
    """Say which files of the sets are of no image any more: of one that was removed or replaced.

    Whoever reads a set as a folder would read them too.
    """
    folders = [str(output.path / name) for name in sorted({Path(path).parts[0] for path in paths})]
    listed = [
        os.path.relpath(file, output.path) for folder in folders for file in list_folder(folder)
    ]
    # A disk that ignores case lists a file under the name that its image had at first.
    in_another_case = {path.casefold() for path in paths.difference(listed)}
    strays = [
        file for file in listed if file not in paths and file.casefold() not in in_another_case
    ]
    if strays:
        say(
            f"files in {str(output.path)!r} that are of no image of this collection:"
            f" {len(strays)}, such as {strays[0]!r}; remove them, or read {MANIFEST} instead"
        )


def _rows(
    refs: Sequence[ImageRef], output: OutputFolder, settings: CompressSettings
) -> Iterator[dict[str, Any]]:
    """Write the files; yields the manifest's rows in the order of the collection."""
    recipe = settings.recipe()
    images = plan_images(refs, recipe, collection_root(settings.input, refs))
    chunks = iter(lambda: list(islice(images, _CHUNK_IMAGES)), [])
    with ThreadPoolExecutor(settings.workers) as pool:
        for chunk in with_progress(chunks, len, len(refs)):
            for rows in pool.map(lambda image: write_files(image, output.path, recipe), chunk):
                yield from rows


def main(arguments: Sequence[str]) -> int:
    """`afd compress`: exit code 0 when every good image is in every set, 1 if not, 2: bad usage."""
    settings = parse(CompressSettings, arguments, prog="afd compress")
    return run_job("afd compress", lambda: _run(settings), continued=SAME_COMMAND_CONTINUES)


def _run(settings: CompressSettings) -> int:
    with output_on_disk(settings.output):
        summary = compress_collection(settings)
    bad = "".join(f", {count} {status}" for status, count in summary["bad"].items())
    say(
        f"{summary['images']} images{bad}; {len(summary['sets'])} sets,"
        f" {size(summary['num_bytes'])} in {summary['output']}"
    )
    return EXIT_COMPLETE
