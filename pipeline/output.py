"""The output of a run: the names of its files, and their atomic reading and writing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.error_text import one_line, reason_of
from pipeline.stores import storage
from pipeline.stores.errors import AccessError, SourceError, StoreError
from pipeline.stores.locations import refuse_credentials, scheme_of, uri_of, without_credentials
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
    """A file of the output is damaged."""


class OutputFolder:
    """One run's output folder.

    Args:
        location: a path, s3://BUCKET/KEY or gs://BUCKET/KEY.

    Raises:
        OutputError: a location with another scheme, or whose name is not UTF-8.
        SourceError: a location with credentials.
    """

    def __init__(self, location: str) -> None:
        self._store: OutputStore
        if "://" not in location:
            self._store = LocalFolder(Path(os.path.abspath(location)))
        elif scheme_of(location) in _WRITABLE_SCHEMES and location.partition("://")[2].strip("/"):
            refuse_credentials(location)
            self._store = BucketFolder(location)
        else:
            raise OutputError(
                f"cannot write to {without_credentials(location)!r}: give a path, or s3:// or"
                " gs:// with a bucket and a key"
            )
        self.location = self._store.location
        if uri_of(self.location) != self.location:
            raise OutputError(
                f"the output {self.location!r} has a name that is not UTF-8, which readers of"
                " Parquet cannot open: choose another one"
            )

    @property
    def path(self) -> Path:
        """The folder's path. Raises OutputError for an output in a bucket."""
        if isinstance(self._store, BucketFolder):
            raise OutputError(
                f"{self.location!r} is in a bucket, and this job needs a local folder: give one,"
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
        """Create the folder and check that it takes a part. Raises OutputError."""
        self.prepare(LABELS)  # in there: it may be another user's, or a link to another disk

    def prepare(self, folder: str = "") -> None:
        """Create the folder, or one in it, and check that it takes a file. Raises OutputError."""
        where = f" {folder}/ in" if folder else ""
        probe = os.path.join(folder, ".writable")
        with self.first_write():
            self._store.prepare(folder)
        with self.first_write(f"write to{where}"):
            self._store.write(probe, b"")
        with self.first_write(f"delete from{where}"):
            self._store.remove(probe)

    @contextmanager
    def first_write(self, action: str = "write to") -> Iterator[None]:
        """Wrap a job's first write: raises OutputError if the folder is not writable.

        action: what is tried, for the message.
        """
        try:
            yield
        except (OSError, AccessError, SourceError) as error:
            raise OutputError(
                f"cannot {action} the output folder {self.location!r}: {reason_of(error)}"
            ) from error

    def clean(self) -> None:
        """Remove the temporary files of earlier runs that were killed."""
        for folder in (STAGING, ATTEMPTS):
            self._store.discard(folder)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises FileNotFoundError, another OSError, AccessError."""
        return storage.open_input(self._store.locate(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically. Raises OSError, AccessError."""
        self._store.write(name, data)

    def staged(self, name: str) -> AbstractContextManager[Path]:
        """A temporary local file, which becomes the named file when the block succeeds."""
        return self._store.staged(name)

    def touch(self, name: str, data: bytes) -> None:
        """Set a small file's modification time to now; write the file if it is missing."""
        self._store.touch(name, data)

    def modification_times(self, folder: str) -> dict[str, float]:
        """Name -> modification time of the files in a folder, by the storage's own clock."""
        try:
            return self._store.modification_times(folder)
        except (StoreError, AccessError) as error:  # listing needs a permission of its own
            raise type(error)(f"{folder}/ cannot be listed: {error}") from None

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, another OSError, AccessError."""
        return self._store.read(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists. Raises OSError, AccessError."""
        self._store.remove(name)

    def remove_empty(self, folder: str) -> None:
        """Remove a folder, if it is empty."""
        self._store.remove_empty(folder)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self.write(name, (json.dumps(content, indent=2) + "\n").encode("utf-8"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None if the file does not exist.

        Raises DamagedError when it is not a JSON object; OutputError when it cannot be read.
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
        """Write a marker before an attempt at a unit of work; returns the attempt's number, from 1.

        The marker remains if the process dies during the attempt, so that attempts can be limited.
        """
        attempt = 1
        while not self._store.create(f"{ATTEMPTS}/{name}.{attempt}"):
            attempt += 1
        return attempt

    def end_attempts(self, name: str) -> None:
        """Remove the markers of a unit of work that is done."""
        markers = self.modification_times(ATTEMPTS)
        for marker in markers:
            if marker.rpartition(".")[0] == name:
                self.remove(f"{ATTEMPTS}/{marker}")
