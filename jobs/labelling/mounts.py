"""Whether a worker's node sees the disks of the output and of the input.

A row that says `unreadable` is final, so a disk that is not mounted, or no longer, must not be
taken for files that were removed. And a worker whose images are all unreadable is the fastest, so
that it would be given most of the shards.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.inputs.image_bytes import is_remote_image
from pipeline.inputs.sampling import evenly
from pipeline.output import OutputFolder
from pipeline.records import ImageRef, Status
from pipeline.shards import Plan
from pipeline.stores.locations import local_path

_SAMPLED_SHARDS = 32
_TRIED_PER_SHARD = 16


class NotMountedError(ValueError):
    """This node cannot see the output or the input of the driver."""


def existing_input_files(plan: Plan) -> tuple[str, ...]:
    """Local files of the input that this process sees, from shards all over the plan."""
    return tuple(dict.fromkeys(_existing(plan)))


def _existing(plan: Plan) -> Iterator[str]:
    for shard in evenly(range(plan.size.num_shards), _SAMPLED_SHARDS):
        files = map(_local_file, plan.shard(shard).refs[:_TRIED_PER_SHARD])
        if found := next((file for file in files if file and os.path.exists(file)), None):
            yield found


def check_output(output: OutputFolder) -> None:
    """Raise NotMountedError when this node does not see a local output's plan."""
    if "://" not in output.location and not os.path.exists(output.plan):
        raise _not_mounted(str(output.plan), "output")


class InputDisks:
    """The disks that a node reads the input from, as far as they are known.

    files: local files of the input that the driver sees. Raises NotMountedError when this node
    lacks the disk of one of them.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._disks = set(map(_disk, filter(os.path.exists, files)))
        self._check(file for file in files if not os.path.exists(file))

    def check_shard(self, refs: Sequence[ImageRef], statuses: Sequence[str]) -> None:
        """Raise NotMountedError if unreadable images of a shard are missing because a disk is.

        A file is taken for removed where the closest folder above it that exists is on a disk of
        the input; after an unmount, that is the mount point, on another disk. If no file of the
        shard could be read, and those that the driver saw are gone too, the input was moved.
        """
        read, missing = set(), dict[str, None]()
        for ref, status in zip(refs, statuses, strict=True):
            if (file := _local_file(ref)) is None:
                continue
            if status != Status.UNREADABLE:
                read.add(os.path.dirname(file))
            elif not os.path.exists(file):
                missing[file] = None
        self._disks.update(_disk(os.path.join(folder, "any")) for folder in read)
        self._check(missing)
        if missing and not read and self._files and not any(map(os.path.exists, self._files)):
            raise _not_mounted(next(iter(missing)), "input")

    def _check(self, missing: Iterable[str]) -> None:
        for file in missing:
            if _disk(file) not in self._disks:
                raise _not_mounted(file, "input")


def _local_file(ref: ImageRef) -> str | None:
    """The image's file, or the archive that it is in; None if that is remote."""
    return None if is_remote_image(ref) else local_path(ref.source or ref.uri)


def _disk(file: str) -> int:
    """The device number of the closest folder above a file that exists."""
    folders = Path(file).parents
    return next(os.stat(folder).st_dev for folder in folders if os.path.exists(folder))


def _not_mounted(path: str, what: str) -> NotMountedError:
    return NotMountedError(
        f"{path!r} does not exist on the node {socket.gethostname()}: mount the {what} at"
        " the same path on every node"
    )
