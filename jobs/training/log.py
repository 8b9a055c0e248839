"""What a training run says while it runs: log.jsonl, TensorBoard where it is installed, a line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afd_model.atomic_file import atomic_write
from jobs.log import say

LOG = "log.jsonl"
_POLL_S = 0.5


class TrainingLog:
    """Appends records to the run's log. One process of a run writes it.

    first_step: where the run goes on; records of later steps, made by a process that died before
    it saved its state, are dropped.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / LOG
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= first_step]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def __call__(self, record: dict[str, Any]) -> None:
        """A record: {"kind": ..., "step": ..., numbers}."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


@contextmanager
def shown_live(folder: Path, max_steps: int) -> Iterator[None]:
    """Print each new record of the run's log while the block runs, wherever it is written."""
    ended = threading.Event()
    path = folder / LOG
    shown = set(_lines(path))

    def show() -> None:
        while True:
            last_time = ended.wait(_POLL_S)
            for line in _lines(path):
                if line not in shown:
                    shown.add(line)
                    say(_for_people(json.loads(line), max_steps))
            if last_time:
                return

    thread = threading.Thread(target=show, name="training-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _for_people(record: dict[str, Any], max_steps: int) -> str:
    head = f"step {record['step']}/{max_steps}"
    if record["kind"] == "validation":
        return (
            f"{head}  held out: compressed {share(record, 'compressed_agreement')} have the clean"
            f" picture's label (without the module {share(record, 'direct_agreement')}),"
            f" clean {share(record, 'clean_agreement')}, kl {record['kl']:.4f}"
        )
    names = ("loss", "kl", "embedding", "features", "stem_l1")
    terms = (f"{n} {record[n]:.4f}" for n in names if n in record)
    return f"{head}  {'  '.join(terms)}  {record['images_per_s']:.1f} images/s"


def share(score: dict[str, float], name: str) -> str:
    """In percent; a dash where too few images are held out for there to be any."""
    return f"{score[name]:.1%}" if name in score else "–"


def _lines(path: Path) -> list[str]:
    """The whole records; a killed writer may have left half of one, a crash zeros."""
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
