"""Files that are replaced whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path, *, staging: Path | None = None) -> Iterator[Path]:
    """A name to write to, which takes the place of `path` when the block succeeds.

    What was at `path` stays until the new file is on the disk. The name is unique, so that two
    writers of one file never mix: the last one wins. Missing folders are made.

    staging: a folder of the same file system for the unfinished file, which a process that dies
        leaves there; None: beside `path`.
    """
    path = Path(path)
    folder = path.parent if staging is None else staging
    temporary = folder / f"{uuid.uuid4().hex}.tmp"  # with the file's own it might be too long
    for needed in {path.parent, folder}:
        needed.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The rename itself: else a power failure may undo it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems know no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
