"""The output of a run: where its files stand, and how each is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.error_text import one_line, reason_of
from pipeline.stores import storage
from pipeline.stores.attempts import AccessError, ReadError
from pipeline.stores.locations import SourceError, recorded, scheme_of
from pipeline.stores.output_store import STAGING, BucketFolder, LocalFolder, OutputStore

LABELS = "labels"
PLAN = "plan.parquet"
RUN = "run.json"
SUMMARY = "summary.json"
ATTEMPTS = ".attempts"
_WRITABLE_SCHEMES = ("s3", "gs")


class OutputError(ValueError):
    """The output folder cannot be used as it is; the message says what to do."""


class DamagedError(OutputError):
    """A file of the output was read, and is not what was written."""


class OutputFolder:
    """Names and small files of one run's output.

    Args:
        location: a path, or s3://BUCKET/KEY or gs://BUCKET/KEY.

    Raises:
        OutputError: another scheme, which cannot be written to.
    """

    def __init__(self, location: str) -> None:
        self._store: OutputStore
        if "://" not in location:
            self._store = LocalFolder(Path(os.path.abspath(location)))
        elif scheme_of(location) in _WRITABLE_SCHEMES and location.partition("://")[2].strip("/"):
            self._store = BucketFolder(location)
        else:
            raise OutputError(
                f"cannot write to {recorded(location)!r}: give a path, or s3:// or gs:// with a"
                " bucket and a key"
            )
        self.location = self._store.location

    @property
    def path(self) -> Path:
        """Of a local output. Raises OutputError for one in a bucket."""
        if isinstance(self._store, BucketFolder):
            raise OutputError(
                f"{self.location!r} is in a bucket, and this job works on a disk: give a folder,"
                " and copy an output there first"
            )
        return Path(self.location)

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def labels(self) -> Path:
        return self.path / LABELS

    def create(self) -> None:
        """Make the folder, and find out now whether it can be written to. Raises OutputError."""
        with self.first_written():
            self._store.prepare(LABELS)
            self._store.write(".writable", b"")
        with self.first_written("delete from"):
            self._store.remove(".writable")

    @contextmanager
    def first_written(self, what: str = "write to") -> Iterator[None]:
        """Around what a job writes first: raises OutputError where the folder takes no files."""
        try:
            yield
        except (OSError, AccessError, SourceError) as error:
            raise OutputError(
                f"cannot {what} the output folder {self.location!r}: {reason_of(error)}"
            ) from error

    def clean(self) -> None:
        """Remove what dead writers of an earlier run left behind."""
        for folder in (STAGING, ATTEMPTS):
            self._store.discard(folder)

    def open(self, name: str) -> BinaryIO:
        """A file to read and to seek in. Raises FileNotFoundError, another OSError, AccessError."""
        return storage.open_input(self._store.locate(name))

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all. Raises OSError, AccessError."""
        self._store.write(name, data)

    def staged(self, name: str) -> AbstractContextManager[Path]:
        """A local file to write to, which becomes the named one when the block succeeds."""
        return self._store.staged(name)

    def touch(self, name: str, data: bytes) -> None:
        """Set a small file's time of change to now; write the file where it is missing."""
        self._store.touch(name, data)

    def changed_at(self, folder: str) -> dict[str, float]:
        """Name -> when it changed, by the storage's own clock; of the files right in a folder."""
        try:
            return self._store.changed_at(folder)
        except (ReadError, AccessError) as error:  # a right of its own, which may be missing
            raise type(error)(f"{folder}/ cannot be listed: {error}") from None

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, another OSError, AccessError."""
        return self._store.read(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OSError, AccessError."""
        self._store.remove(name)

    def remove_empty(self, folder: str) -> None:
        """Remove a folder that holds nothing; nothing happens to one that does."""
        self._store.remove_empty(folder)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self.write(name, (json.dumps(content, indent=2) + "\n").encode("utf-8"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file, or None when there is none.

        Raises DamagedError, or OutputError when it cannot be read.
        """
        try:
            data = self.read(name)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise OutputError(
                f"the output {self.location!r} is a file, not a folder, or below one: choose"
                " another --output"
            ) from error
        except (OSError, AccessError, SourceError) as error:
            where = self._store.locate(name)
            raise OutputError(f"cannot read {where!r}: {reason_of(error)}") from error
        return self._json_of(data, name)

    def _json_of(self, data: bytes, name: str) -> dict[str, Any]:
        try:
            content = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DamagedError(
                f"{self._store.locate(name)!r} is damaged ({one_line(error)}): remove the output"
                " folder or choose another one"
            ) from error
        if not isinstance(content, dict):
            raise DamagedError(f"{self._store.locate(name)!r} is damaged: it holds no JSON object")
        return content

    def begin_attempt(self, name: str) -> int:
        """Mark one more attempt at a unit of work before it starts, and return its number from 1.

        The marker outlives a process that dies in the attempt, which is what it is for.
        """
        attempt = 1
        while not self._store.create(f"{ATTEMPTS}/{name}.{attempt}"):
            attempt += 1
        return attempt

    def end_attempts(self, name: str) -> None:
        markers = self.changed_at(ATTEMPTS)
        for marker in markers:
            if marker.rpartition(".")[0] == name:
                self.remove(f"{ATTEMPTS}/{marker}")
