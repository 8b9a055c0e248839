"""Prefetch: the images of a shard, read and screened by threads ahead of the decoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

from pipeline.inputs.image_bytes import (
    expected_bytes,
    has_random_access,
    is_remote_image,
    is_streamed,
)
from pipeline.reading.reading_tasks import ArchiveReadPool, LoadedRun, ReadPool, StoreDownError
from pipeline.records import EncodedImage, ImageRef
from pipeline.screening.screen import Limits
from pipeline.stores.errors import TransientStoreError

_IMAGES_PER_TASK = 16  # a task costs about 50 µs, which is more than a small image does
_MAX_BYTES_PER_TASK = 1 << 26  # expected; a task's images are in memory together
_REMOTE_READS = 256  # at the same time; at 50 ms each, this is 5,000 images/s
# Images in a row that their store or disk failed to return; for any reason, or each after all
# retries (of a disk, the system's own).
_MAX_STORE_FAILURES_IN_A_ROW = 32
_MAX_TRANSIENT_FAILURES_IN_A_ROW = 8


class ReadAhead:
    """Reads and screens the images of a shard in `num_threads` threads.

    Iterate over it once. The threads start with the first image that is asked for, or with
    `start_early`, and end with the last image or with `close`.

    Up to `max_images` (at least 16) are read ahead, and no more while 512 MiB of them wait. Remote
    files are read by up to 256 other threads, since these mostly wait for the network; a streamed
    archive by one other thread, see `is_streamed`.

    read_s, screen_s: seconds of all threads together. mean_ready: how many images were ready, on
    average, when the next were needed; near 0 where reading is the bottleneck.
    """

    def __init__(
        self, refs: Sequence[ImageRef], limits: Limits, *, num_threads: int, max_images: int
    ) -> None:
        self.read_s = 0.0
        self.screen_s = 0.0
        self._ready = self._asked = 0
        self._refs = refs
        self._limits = limits
        self._num_threads = num_threads
        self._max_images = max(max_images, _IMAGES_PER_TASK)
        self._runs = _runs(refs)
        self._next_run = next(self._runs, None)
        self._tasks: deque[Future[LoadedRun]] = deque()
        self._ahead = 0  # images in the tasks
        self._pool: ReadPool | None = None
        self._closed = False

    @property
    def mean_ready(self) -> float:
        return self._ready / max(1, self._asked)

    def start_early(self) -> None:
        """Start reading, unless the shard before may still read the same archive.

        That archive can only be read from its start: this shard continues where the other ends.
        """
        if not self._refs or has_random_access(self._refs[0]):
            self._start()

    def _start(self) -> ReadPool:
        if self._pool is None:
            self._pool = self._make_pool()
            self._submit_more(self._pool)
        return self._pool

    def stop(self) -> None:
        """Begin nothing more, from any thread; the iterating thread gets a CancelledError."""
        self._closed = True
        if self._pool is not None:
            self._pool.stop()

    def close(self) -> None:
        """Stop, and wait for the images that are being read."""
        self.stop()
        if self._pool is not None:
            self._pool.close()

    def __iter__(self) -> Iterator[EncodedImage]:
        """The images in the order of their references; an unreadable one carries its error.

        Raises StoreDownError or AccessError when the store fails rather than single images: then
        the shard has to be retried. Raises CancelledError once it is closed.
        """
        try:
            yield from self._in_order()
        finally:
            self.close()

    def _make_pool(self) -> ReadPool:
        if self._refs and is_streamed(self._refs[0]):
            return ArchiveReadPool(self._refs, self._limits, self._num_threads)
        remote = any(is_remote_image(ref) for ref in self._refs)
        num_readers = min(_REMOTE_READS, self._max_images) if remote else 0
        return ReadPool(self._refs, self._limits, self._num_threads, num_readers)

    def _submit_more(self, pool: ReadPool) -> None:
        while (run := self._next_run) is not None and (
            not self._tasks or self._ahead + len(run) <= self._max_images
        ):
            self._ahead += len(run)
            self._next_run = next(self._runs, None)
            try:
                self._tasks.append(pool.submit(run))
            except RuntimeError as error:  # `close` has just shut the threads down
                if self._closed:
                    raise CancelledError from error
                raise

    def _in_order(self) -> Iterator[EncodedImage]:
        pool = self._start()
        # A smaller shard fails if its store returns none of its images, unless it is tiny.
        max_failures = min(
            _MAX_STORE_FAILURES_IN_A_ROW, max(len(self._refs), _MAX_TRANSIENT_FAILURES_IN_A_ROW)
        )
        failures_in_a_row = transient_in_a_row = 0
        while self._tasks:
            self._ready += pool.num_ready
            self._asked += 1
            loaded = self._tasks.popleft().result()
            if self._closed:
                raise CancelledError
            self._ahead -= len(loaded.images)
            pool.mark_used(loaded)
            self._submit_more(pool)
            self.read_s += loaded.read_s
            self.screen_s += loaded.screen_s
            for image, store_error in zip(loaded.images, loaded.store_errors, strict=True):
                failures_in_a_row = failures_in_a_row + 1 if store_error else 0
                is_transient = isinstance(store_error, TransientStoreError)
                transient_in_a_row = transient_in_a_row + 1 if is_transient else 0
                if (
                    failures_in_a_row == max_failures
                    or transient_in_a_row == _MAX_TRANSIENT_FAILURES_IN_A_ROW
                ):
                    raise StoreDownError(
                        f"{failures_in_a_row} images in a row, the last: {image.error}"
                        f" ({self._refs[image.row].uri})"
                    )
                yield image


def _runs(refs: Sequence[ImageRef]) -> Iterator[range]:
    """The rows of each task: up to 16 local files or members of an archive, or one remote file.

    Local files count as large as the first one of their task: on a network's file system, asking
    for the size of each here would take longer than reading them side by side does.
    """
    start = 0
    while start < len(refs):
        first = num_bytes = expected_bytes(refs[start])
        stop = start + 1
        while (
            stop < min(start + _IMAGES_PER_TASK, len(refs))
            and (num_bytes := num_bytes + _known_or(refs[stop], first)) <= _MAX_BYTES_PER_TASK
            and not _is_remote_file(refs[start])
            and not _is_remote_file(refs[stop])
        ):
            stop += 1
        yield range(start, stop)
        start = stop


def _known_or(ref: ImageRef, guess: int) -> int:
    return guess if ref.num_bytes is None else ref.num_bytes


def _is_remote_file(ref: ImageRef) -> bool:
    return ref.container is None and is_remote_image(ref)
