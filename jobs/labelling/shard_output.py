"""What a worker writes to the output for a shard: attempt markers, then its part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.exits import SAME_COMMAND_CONTINUES
from jobs.labelling.mounts import check_output_remains
from pipeline.error_text import reason_of
from pipeline.output import OutputFolder
from pipeline.shards import part_name
from pipeline.sink import read_facts, write_part
from pipeline.stores.errors import AccessError, refuses_all_writing

if TYPE_CHECKING:
    from pipeline.label_shard import LabelledShard


class OutputRefusedError(RuntimeError):
    """The output accepts no more files, so labelling further shards would be in vain."""


class AttemptsUsedUpError(RuntimeError):
    """A shard was attempted as often as is allowed."""


class ShardOutput:
    """Writes to an output folder for one driver of a run; each driver counts its own attempts.

    Its methods raise OutputRefusedError, worded for the user, when the output accepts no more
    files, as on a full disk; OutputGoneError when it is gone, or another run's; another OSError or
    AccessError when one file could not be read or written.
    """

    def __init__(self, output: OutputFolder, driver: str, run_id: str) -> None:
        self._output = output
        self._driver = driver
        self._run_id = run_id

    def committed_counts(self, shard: int) -> dict[str, int] | None:
        """The rows per status of a committed part; None when there is no part of this run.

        There is one when a worker committed the shard and died before it could report it.
        """
        try:
            facts = read_facts(self._output, shard)
        except FileNotFoundError:
            return None
        if facts.get("run_id") != self._run_id:
            return None
        counts: dict[str, int] = facts["counts"]
        return counts

    def begin_attempt(self, shard: int, allowed: int) -> None:
        """Record one more attempt on storage, so that it counts even if the process dies in it.

        Raises AttemptsUsedUpError when this would be one more than allowed.
        """
        with self._write_checked():
            attempt = self._output.begin_attempt(self._attempts_name(shard))
        if attempt > allowed:
            raise AttemptsUsedUpError

    def commit(self, shard: int, labelled: LabelledShard, facts: dict[str, Any]) -> float:
        """Remove the attempt markers and write the part. Returns the seconds it took to write.

        facts: what the part's metadata says besides the run and the shard's own counts and times.
        """
        # First: if another shard ends the process during the write, this one is not to blame.
        self._output.end_attempts(self._attempts_name(shard))
        began = time.perf_counter()
        facts = {
            "run_id": self._run_id,
            **facts,
            "began_at": labelled.began_at,  # seconds since the epoch
            "counts": labelled.counts,
            "seconds": labelled.seconds,
        }
        with self._write_checked():
            write_part(self._output, shard, labelled.table, facts)
        return time.perf_counter() - began

    def _attempts_name(self, shard: int) -> str:
        return f"{part_name(shard)}.{self._driver}"

    @contextmanager
    def _write_checked(self) -> Iterator[None]:
        check_output_remains(self._output, self._run_id)
        try:
            yield
        except (OSError, AccessError) as error:
            if refuses_all_writing(error):
                raise OutputRefusedError(
                    f"cannot write to {self._output.location!r}: {reason_of(error)}"
                    f"{SAME_COMMAND_CONTINUES}"
                ) from error
            raise
