"""The worker: labels the shards it is given, two at a time, and commits each one.

While one shard is decoded and classified, the images of the next are read and the rows of the
previous one are written. With a remote store, reading and writing take as long as labelling a
thousand images or so.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from jobs.exits import SAME_COMMAND_CONTINUES
from jobs.labelling.messages import CommitRecord, WorkerConfig
from jobs.labelling.metrics import ShardMetrics
from jobs.labelling.mounts import (
    InputWitnesses,
    NotMountedError,
    OutputGoneError,
    check_output,
)
from jobs.labelling.shard_output import AttemptsUsedUpError, OutputRefusedError, ShardOutput
from jobs.machine import release_free_memory, without_garbage_collection
from pipeline.error_text import named
from pipeline.output import OutputFolder
from pipeline.records import Shard
from pipeline.shards import Plan

if TYPE_CHECKING:
    from jobs.labelling.shard_pipeline import ShardPipeline
    from pipeline.label_shard import LabelledShard
    from pipeline.reading.read_ahead import ReadAhead

SHARDS_AT_ONCE = 2
EXIT_DEVICE_LOST = 70  # EX_SOFTWARE
STOPPED = "the worker was stopped before the shard was labelled"
_RELEASE_EVERY_S = 30  # releasing free memory then takes a thousandth of the time


class ShardLabeler:
    """Created once in each worker process, then called with one shard at a time.

    Up to `SHARDS_AT_ONCE` threads may call it at once. It never raises: Ray would retry, and print
    its own traceback. When the model cannot be loaded or the output accepts no more files, every
    record says why in `fatal`. A process that has lost its device does the same without Ray; on
    Ray it exits, because Ray then starts another one in its place.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._settings = config.settings
        output = OutputFolder(config.settings.output)
        self._output = ShardOutput(output, config.driver, config.run_id)
        self._metrics = ShardMetrics()
        self._released_at = 0.0
        self._fatal: str | None = None
        self._is_mistake = False
        self._witnesses: InputWitnesses | None = None
        self._device_fault: str | None = None
        # Only this thread uses the decoder and the model: PyTorch starts a set of its own threads
        # for each thread that calls it.
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._being_read: set[ReadAhead] = set()
        self._stopping = False
        try:
            check_output(output)
            if config.input_files is not None:
                self._witnesses = InputWitnesses(config.input_files)
            self.plan = Plan(output)
            self.pipeline = self._model_thread.submit(self._load, config).result()
        except Exception as error:
            self._is_mistake = isinstance(error, ValueError)  # which every node would tell
            self._fatal = str(error) if self._is_mistake else self._on_this_node(named(error))

    def _load(self, config: WorkerConfig) -> ShardPipeline:
        # Imported here because the driver imports this module too. It does without PyTorch and
        # DALI, which take longer to import than the rest of its start.
        with without_garbage_collection():
            from jobs.labelling.shard_pipeline import ShardPipeline
        return ShardPipeline(config, self.plan.num_images)

    def ready(self) -> str:
        """Return when the worker can label: its process, as the user can find it."""
        return f"process {os.getpid()} on {socket.gethostname()}"

    def label_or_exit(self, shard: int) -> CommitRecord:
        """Label one shard on Ray; exit when the process has lost its device.

        Every shard would fail here, and fast, so that this worker would be given all the others.
        """
        record = self.label(shard)
        if self._device_fault is not None:
            print(self._device_fault, file=sys.stderr, flush=True)
            os._exit(EXIT_DEVICE_LOST)
        return record

    def label_each(self, shards: Iterable[int]) -> Generator[CommitRecord, None, None]:
        """Label shards in this process; yields their records in the order of `shards`.

        When it is closed or interrupted, shards that are not committed yet are abandoned.
        """
        self._stopping = False
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as threads:
            running: deque[Future[CommitRecord]] = deque()
            try:
                for shard in shards:
                    running.append(threads.submit(self.label, shard))
                    if len(running) == SHARDS_AT_ONCE:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BaseException:
                self._stop()  # or leaving the block would wait until the shards are labelled
                raise

    def _stop(self) -> None:
        self._stopping = True
        for images in tuple(self._being_read):
            images.stop()  # all of them at once; their own threads wait for what is being read

    def label(self, shard: int) -> CommitRecord:
        """Label one shard; retry until it is committed or the attempts are used up."""
        began = time.monotonic()
        allowed = self._settings.attempts_per_shard
        error = f"the worker process died in each of {allowed} attempts"
        for _ in range(allowed):
            if self._fatal is not None:
                break
            try:
                return self._attempt(shard, began)
            except CancelledError:
                return CommitRecord(shard, _since(began), error=STOPPED)
            except AttemptsUsedUpError:
                break
            except Exception as failure:
                error = named(failure)
                self._note_if_fatal(failure)
        if self._fatal is not None:
            return CommitRecord(
                shard, _since(began), fatal=self._fatal, is_mistake=self._is_mistake
            )
        self._metrics.failed()
        return CommitRecord(shard, _since(began), error=error)

    def _attempt(self, shard: int, began: float) -> CommitRecord:
        if (counts := self._output.committed_counts(shard)) is not None:
            return CommitRecord(shard, _since(began), counts)
        planned = self.plan.shard(shard)
        labelled = self._read_and_label(planned)
        if self._witnesses is not None:
            self._witnesses.check_shard(planned.refs, labelled.table["status"].to_pylist())
        write_s = self._output.commit(shard, labelled, self.pipeline.part_facts)
        seconds = {**labelled.seconds, "write": write_s}
        self._metrics.committed(labelled, seconds)
        self._release_memory()
        model = self.pipeline.model
        return CommitRecord(
            shard,
            _since(began),
            labelled.counts,
            seconds,
            model.facts,
            notice=model.predictor.notice,
        )

    def _read_and_label(self, shard: Shard) -> LabelledShard:
        """Start reading the shard's images, then label them when the model's thread is free.

        Raises CancelledError when the worker is stopped.
        """
        with closing(self.pipeline.read(shard)) as images:
            self._being_read.add(images)
            try:
                images.start_early()
                return self._model_thread.submit(self._label_read, shard, images).result()
            finally:
                self._being_read.discard(images)

    def _label_read(self, shard: Shard, images: ReadAhead) -> LabelledShard:
        if self._stopping:
            raise CancelledError
        # Only now: a shard that was still waiting when the process died has used up no attempt.
        self._output.begin_attempt(shard.index, self._settings.attempts_per_shard)
        return self.pipeline.label(shard, images)

    def _note_if_fatal(self, failure: Exception) -> None:
        """Set `_fatal` when every further shard would fail for the same reason."""
        if isinstance(failure, (NotMountedError, OutputGoneError)):
            self._fatal = str(failure)
        elif isinstance(failure, OutputRefusedError):
            self._fatal = self._on_this_node(str(failure))
        elif (fault := self.pipeline.device_fault()) is not None:
            self._device_fault = fault
            self._fatal = f"{self._on_this_node(fault)}{SAME_COMMAND_CONTINUES}"

    def _on_this_node(self, reason: str) -> str:
        """A reason that may be this node's alone, with its name if there are others."""
        is_alone = self._settings.address == "local"
        return reason if is_alone else f"{reason} (on the node {socket.gethostname()})"

    def _release_memory(self) -> None:
        if time.monotonic() - self._released_at > _RELEASE_EVERY_S:
            release_free_memory()
            self._released_at = time.monotonic()


def _since(began: float) -> float:
    return time.monotonic() - began
