"""Where a run's output stands: a local folder, or a folder of a bucket. Files appear whole or not.

A local file is written under a temporary name and renamed; an object is stored by one request. Both
are on storage when a write returns.
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
    """What an output is kept in. Names are relative, with slashes.

    What goes wrong is raised as OSError or `pipeline.stores.attempts.AccessError`.
    """

    location: str

    def locate(self, name: str) -> str:
        """The location of a file, as `storage.open_input` takes it."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all; another file of this name is replaced."""

    def staged(self, name: str) -> AbstractContextManager[Path]:
        """A local file to write to, which becomes the named one when the block succeeds."""

    def touch(self, name: str, data: bytes) -> None:
        """Set a small file's time of change to now; write the file where it is missing."""

    def create(self, name: str) -> bool:
        """An empty file; False where there is one."""

    def changed_at(self, folder: str) -> dict[str, float]:
        """Name -> when it changed, by the storage's own clock; of the files right in a folder."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def prepare(self, folder: str) -> None:
        """Make a folder, where folders are made."""

    def remove_empty(self, folder: str) -> None:
        """Remove a folder that holds nothing; nothing happens to one that does."""

    def discard(self, folder: str) -> None:
        """Remove a folder with all the files in it."""


class LocalFolder:
    """An `OutputStore` on a disk."""

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
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def create(self, name: str) -> bool:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def changed_at(self, folder: str) -> dict[str, float]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._path / folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it has just been removed
                    found[entry.name] = entry.stat().st_mtime
        return found

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def prepare(self, folder: str) -> None:
        (self._path / folder).mkdir(parents=True, exist_ok=True)

    def remove_empty(self, folder: str) -> None:
        with suppress(OSError):  # another driver uses it
            (self._path / folder).rmdir()

    def discard(self, folder: str) -> None:
        path = self._path / folder
        if path.is_dir():
            for leftover in path.iterdir():
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
        # Two workers that create the same name at once both succeed. Only the attempts of one
        # driver at one shard are made so, and those come one after the other.
        folder, _, leaf = name.rpartition("/")
        if leaf in self.changed_at(folder, leaf):
            return False
        self.write(name, b"")
        return True

    def changed_at(self, folder: str, prefix: str = "") -> dict[str, float]:
        """prefix: what the names begin with."""
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
        for name in self.changed_at(folder):
            self.remove(f"{folder}/{name}")
