"""The output folder: where its files stand, and how each is written whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LABELS = "labels"
PLAN = "plan.parquet"
RUN = "run.json"
SUMMARY = "summary.json"
_STAGING = ".staging"  # readers of the data set skip names with a leading dot
_ATTEMPTS = ".attempts"


class OutputError(ValueError):
    """The output folder cannot be used as it is; the message says what to do."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file appears at `path` only when the block succeeds.

    The name is unique, so that two writers of the same file never mix; the last rename wins.
    """
    staging = (
        path.parent.parent / _STAGING if path.parent.name == LABELS else path.parent / _STAGING
    )
    staging.mkdir(parents=True, exist_ok=True)
    temporary = staging / f"{path.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class OutputFolder:
    """Names and small files of one run's output."""

    def __init__(self, location: str) -> None:
        if "://" in location:
            scheme = location.split("://", 1)[0]
            raise OutputError(f"cannot write to {location!r}: {scheme}:// is not supported yet")
        self.path = Path(os.path.abspath(location))

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def labels(self) -> Path:
        return self.path / LABELS

    def create(self) -> None:
        """Make the folder, and find out now whether it can be written to."""
        try:
            self.labels.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path / ".writable") as probe:
                probe.touch()
            (self.path / ".writable").unlink(missing_ok=True)  # another driver may be here
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"cannot write to the output folder {str(self.path)!r}: {reason}"
            ) from error

    def clean(self) -> None:
        """Remove what dead writers of an earlier run left behind."""
        for folder in (self.path / _STAGING, self.path / _ATTEMPTS):
            if folder.is_dir():
                for leftover in folder.iterdir():
                    leftover.unlink(missing_ok=True)
                with suppress(OSError):  # another driver has just begun to use it
                    folder.rmdir()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        with written_whole(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file, or None when there is none. Raises OutputError if damaged."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{str(self.path / name)!r} is damaged ({error}): remove the output folder or"
                " choose another one"
            ) from error
        if not isinstance(content, dict):
            raise OutputError(f"{str(self.path / name)!r} is damaged: it holds no JSON object")
        return content

    def begin_attempt(self, name: str) -> int:
        """Mark one more attempt at a unit of work before it starts, and return its number from 1.

        The marker outlives a process that dies in the attempt, which is what it is for.
        """
        folder = self.path / _ATTEMPTS
        folder.mkdir(parents=True, exist_ok=True)
        attempt = 1
        while True:
            try:
                (folder / f"{name}.{attempt}").touch(exist_ok=False)
            except FileExistsError:
                attempt += 1
            else:
                return attempt

    def end_attempts(self, name: str) -> None:
        attempt = 1
        while (marker := self.path / _ATTEMPTS / f"{name}.{attempt}").exists():
            marker.unlink(missing_ok=True)
            attempt += 1
