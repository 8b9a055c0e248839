"""The storage of a run's output: a local folder, or a folder of a bucket. Writes are atomic.

A local file is written under a temporary name and renamed; an object is stored by one request. Both
are durable when a write returns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from afd_model.atomic_file import atomic_write
from pipeline.stores import storage

STAGING = ".staging"  # readers of the data set skip names with a leading dot


class OutputStore(Protocol):
    """The files of an output. Names are relative to it, with slashes.

    Every method may raise OSError or AccessError.
    """

    location: str

    def locate(self, name: str) -> str:
        """The location of a file, as `storage.open_input` takes it."""

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically; an older one is replaced."""

    def staged(self, name: str) -> AbstractContextManager[Path]:
        """A temporary local file, which becomes the named file when the block succeeds."""

    def touch(self, name: str, data: bytes) -> None:
        """Set a small file's modification time to now; write the file if it is missing."""

    def create(self, name: str) -> bool:
        """Create an empty file; False if the file exists."""

    def modification_times(self, folder: str) -> dict[str, float]:
        """Name -> modification time of the files in a folder, by the storage's own clock."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    def prepare(self, folder: str) -> None:
        """Create a folder; does nothing in a bucket, which has none."""

    def remove_empty(self, folder: str) -> None:
        """Remove a folder, if it is empty."""

    def discard(self, folder: str) -> None:
        """Remove a folder and the files in it; neither folders in it nor what a link leads to."""


class LocalFolder:
    """An `OutputStore` on a disk.

    Only `prepare` makes the output's own folder. A write fails where that is gone: its disk may be
    unmounted, and a new folder would be on another one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)

    def locate(self, name: str) -> str:
        return str(self._path / name)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with self.staged(name) as temporary:
            temporary.write_bytes(data)

    def staged(self, name: str) -> AbstractContextManager[Path]:
        return atomic_write(self._path / name, staging=self._path / STAGING)

    def touch(self, name: str, data: bytes) -> None:
        path = self._path / name
        try:
            os.utime(path)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    def create(self, name: str) -> bool:
        path = self._path / name
        path.parent.mkdir(exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def modification_times(self, folder: str) -> dict[str, float]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._path / folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # just removed by another process
                    found[entry.name] = entry.stat().st_mtime
        return found

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def prepare(self, folder: str) -> None:
        (self._path / folder).mkdir(parents=True, exist_ok=True)

    def remove_empty(self, folder: str) -> None:
        with suppress(OSError):  # not empty: another driver uses it
            (self._path / folder).rmdir()

    def discard(self, folder: str) -> None:
        path = self._path / folder
        if path.is_dir() and not path.is_symlink():  # a link leads to the files of others
            for leftover in path.iterdir():
                if not leftover.is_dir():
                    leftover.unlink(missing_ok=True)
            self.remove_empty(folder)


class BucketFolder:
    """An `OutputStore` below s3://BUCKET/KEY or gs://BUCKET/KEY."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")

    def locate(self, name: str) -> str:
        return f"{self.location}/{name}"

    def read(self, name: str) -> bytes:
        return storage.read(self.locate(name))

    def write(self, name: str, data: bytes) -> None:
        storage.write_object(self.locate(name), data)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="afd-") as folder:
            temporary = Path(folder) / "staged"
            yield temporary
            self.write(name, temporary.read_bytes())

    def touch(self, name: str, data: bytes) -> None:
        self.write(name, data)

    def create(self, name: str) -> bool:
        # Not atomic: two callers at the same time may both succeed. It is used only for the
        # attempts of one driver at one shard, which come one after the other.
        folder, _, leaf = name.rpartition("/")
        if leaf in self.modification_times(folder, leaf):
            return False
        self.write(name, b"")
        return True

    def modification_times(self, folder: str, prefix: str = "") -> dict[str, float]:
        """prefix: only names that start with it."""
        below = self.locate(f"{folder}/" if folder else "")
        found = storage.list_changes(below + prefix)
        names = ((location.removeprefix(below), stored_at) for location, stored_at in found)
        return {name: stored_at for name, stored_at in names if name and "/" not in name}

    def remove(self, name: str) -> None:
        storage.remove_object(self.locate(name))

    def prepare(self, folder: str) -> None:
        """A bucket has no folders."""

    def remove_empty(self, folder: str) -> None:
        """A bucket has no folders."""

    def discard(self, folder: str) -> None:
        for name in self.modification_times(folder):
            self.remove(f"{folder}/{name}")
