"""Atomic writes to local files."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path, *, staging: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path; if the block succeeds, its file replaces `path`.

    The old file stays until the new one is on the disk. Temporary names are unique: of several
    writers of one path the last one wins.

    Args:
        path: the final path. Without `staging` its folder must exist: where a disk was unmounted, a
            new one would be on another disk.
        staging: folder on the same file system for the temporary file, which stays there if the
            process is killed; None: beside `path`. The folder that it is in must exist.
    """
    path = Path(path)
    folder = path.parent if staging is None else staging
    temporary = folder / f"{uuid.uuid4().hex}.tmp"  # a name made from the file's may be too long
    if staging is not None:
        staging.mkdir(exist_ok=True)  # first: it fails where the folder that both are in is gone
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable: a power failure could undo it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # not supported by some network file systems
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
