"""Whether a worker's node sees the output and the input.

A row that says `unreadable` is final, so a disk that is not mounted, or no longer, must not be
taken for files that were removed. And a worker whose images are all unreadable is the fastest, so
that it would be given most of the shards.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from jobs.sampling import evenly
from pipeline.inputs.image_bytes import is_remote_image
from pipeline.output import RUN, OutputFolder
from pipeline.records import ImageRef, Status
from pipeline.shards import Plan
from pipeline.stores.locations import local_path

_SAMPLED_SHARDS = 32
_TRIED_PER_SHARD = 16
_REMEMBERED_SHARDS = 64


class NotMountedError(ValueError):
    """This node cannot see the output or the input of the driver."""


class OutputGoneError(OSError):
    """This node saw the output, and no longer does; or another run has taken its place."""


def existing_input_files(plan: Plan) -> tuple[str, ...]:
    """Local files of the input that this process sees, from shards all over the plan."""
    return tuple(dict.fromkeys(_existing(plan)))


def _existing(plan: Plan) -> Iterator[str]:
    for shard in evenly(range(plan.num_shards), _SAMPLED_SHARDS):
        files = map(_local_file, plan.shard(shard).refs[:_TRIED_PER_SHARD])
        if found := next((file for file in files if file and os.path.exists(file)), None):
            yield found


def check_output(output: OutputFolder) -> None:
    """Raise NotMountedError when this node does not see a local output's plan."""
    if not _has_plan(output):
        raise _not_mounted(str(output.plan), "output")


def check_output_remains(output: OutputFolder, run_id: str) -> None:
    """Raise OutputGoneError when a local output's plan, which this node saw, is gone.

    So it does when the output is removed and another run has begun there. To be called before each
    write: where a disk was mounted, an empty folder takes any file, and so does another run.
    """
    if not _has_plan(output):
        raise OutputGoneError(
            f"{str(output.plan)!r} does not exist any more on the node {socket.gethostname()}:"
            " mount the output again, or move it back"
        )
    if (output.read_json(RUN) or {}).get("run_id", run_id) != run_id:
        raise OutputGoneError(
            f"{output.location!r} holds another run now: its folder was removed and made again"
        )


def _has_plan(output: OutputFolder) -> bool:
    """Raises OSError when a disk cannot tell now. For a bucket, whose name is enough, True."""
    try:
        return "://" in output.location or bool(os.stat(output.plan))
    except (FileNotFoundError, NotADirectoryError):
        return False


class InputWitnesses:
    """Files of the input that were seen: where all of those near a missing one are gone, so is it.

    files: those that the driver sees. Raises NotMountedError when this node sees none of them.
    """

    def __init__(self, files: Sequence[str]) -> None:
        if files and not any(map(os.path.exists, files)):
            raise _not_mounted(files[0], "input")
        self._files = tuple(map(os.path.realpath, files))
        self._read: deque[str] = deque(maxlen=_REMEMBERED_SHARDS)

    def check_shard(self, refs: Sequence[ImageRef], statuses: Sequence[str]) -> None:
        """Raise NotMountedError if unreadable images are missing because their disk or folder is.

        A missing file was removed where its folder is still there, and not empty; or where one of
        the files is that were seen in the closest folder above it. One that is nowhere near any
        file that was ever seen has always been missing.
        """
        read: list[str] = []
        missing: list[str] = []
        for ref, status in zip(refs, statuses, strict=True):
            if file := _local_file(ref):
                (missing if status == Status.UNREADABLE else read).append(file)
        missing = [file for file in dict.fromkeys(missing) if not os.path.exists(file)]
        if missing:
            # Links are followed: those of one folder may lead to several disks.
            seen = _by_folder([*map(os.path.realpath, read), *self._files, *self._read])
            for file in missing:
                if _is_gone_with_its_folder(os.path.realpath(file), seen):
                    raise _not_mounted(file, "input")
        self._read.extend(map(os.path.realpath, read[-1:]))


def _by_folder(files: Iterable[str]) -> dict[PurePath, list[str]]:
    """Every folder above a file -> the files anywhere below it."""
    found: defaultdict[PurePath, list[str]] = defaultdict(list)
    for file in dict.fromkeys(files):
        for folder in PurePath(file).parents:
            found[folder].append(file)
    return found


def _is_gone_with_its_folder(file: str, seen: dict[PurePath, list[str]]) -> bool:
    folders = PurePath(file).parents
    if _has_entries(folders[0]):
        return False
    near: list[str] = next((seen[folder] for folder in folders if folder in seen), [])
    return bool(near) and not any(map(os.path.exists, near))


def _has_entries(folder: PurePath) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _local_file(ref: ImageRef) -> str | None:
    """The image's file, or the archive that it is in; None if that is remote."""
    return None if is_remote_image(ref) else local_path(ref.source or ref.uri)


def _not_mounted(path: str, what: str) -> NotMountedError:
    return NotMountedError(
        f"{path!r} does not exist on the node {socket.gethostname()}: mount the {what} at"
        " the same path on every node"
    )
