"""The log of a training run: log.jsonl, TensorBoard when it is installed, and lines on stderr."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afd_model.atomic_file import atomic_write
from afd_model.training.losses import LOSS_TERMS
from jobs.log import say
from jobs.quantities import UNKNOWN
from pipeline.error_text import reason_of

LOG = "log.jsonl"
_POLL_S = 0.5


class TrainingLog:
    """Appends records to the run's log. Only one process of a run may write it.

    first_step: the step from which the run continues. Records of later steps are dropped: a process
    wrote them and died before it saved its state.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / LOG
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= first_step]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._board: _Board | None = None
        if find_spec("tensorboard") is not None:
            self._board = _Board(folder / "tensorboard", first_step)

    def __call__(self, record: dict[str, Any]) -> None:
        """Append a record: {"kind": ..., "step": ..., further numbers}."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            self._board.add(record)


class _Board:
    """A file for TensorBoard. Where it cannot be written, the run goes on without it.

    PyTorch's `SummaryWriter` would write in a thread, where an error is a traceback on stderr.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._failed = False
        # With which TensorBoard drops the later steps of an earlier process.
        start = Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._write(Event(file_version="brain.Event:2"), start)

    def add(self, record: dict[str, Any]) -> None:
        """Append a record's numbers that are no counts."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
            for name, value in record.items()
            if isinstance(value, float)
        ]
        self._write(Event(step=record["step"], summary=Summary(value=values)))

    def _write(self, *events: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._failed:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "ab") as file:
                for event in events:
                    event.wall_time = time.time()
                    RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            self._failed = True
            say(f"TensorBoard's log ends here: {reason_of(error)}; {LOG} goes on")


@contextmanager
def log_followed(folder: Path, max_steps: int) -> Iterator[None]:
    """While the block runs, print each new record of log.jsonl, whichever process writes it."""
    ended = threading.Event()
    path = folder / LOG
    shown = set(_lines(path))

    def show() -> None:
        while True:
            last_time = ended.wait(_POLL_S)
            for line in _lines(path):
                if line not in shown:
                    shown.add(line)
                    say(_as_text(json.loads(line), max_steps))
            if last_time:
                return

    thread = threading.Thread(target=show, name="training-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _as_text(record: dict[str, Any], max_steps: int) -> str:
    head = f"step {record['step']}/{max_steps}"
    if record["kind"] == "validation":
        return (
            f"{head}  held out: compressed {share(record, 'compressed_agreement')} have the clean"
            f" picture's label (without the module {share(record, 'direct_agreement')}),"
            f" clean {share(record, 'clean_agreement')}, kl {record['kl']:.4f}"
        )
    terms = (f"{n} {record[n]:.4f}" for n in ("loss", *LOSS_TERMS) if n in record)
    return f"{head}  {'  '.join(terms)}  {record['images_per_s']:.1f} images/s"


def share(score: dict[str, float], name: str) -> str:
    """In percent; a dash when the score was not measured because too few images are held out."""
    return f"{score[name]:.1%}" if name in score else UNKNOWN


def _lines(path: Path) -> list[str]:
    """The complete records. A killed writer may leave half a line, and a power failure zeros."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if _is_record(line)]


def _is_record(line: str) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "step" in record
