"""References -> screened bytes, in order, read by threads ahead of their use."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.attempts import MissingError, ReadError, TemporaryReadError
from pipeline.image_bytes import (
    ArchiveStream,
    is_elsewhere,
    is_read_once,
    is_streamed,
    read_image,
)
from pipeline.locations import is_web
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screen import Limits, screen

_IMAGES_PER_TASK = 16  # a task costs the pool some 50 µs, a small image less
_REMOTE_READS = 256  # under way at once: at 50 ms each 5,000 images/s
_MOST_BYTES_AHEAD = 1 << 29
_MOST_LOST_IN_A_ROW = 32


class StoreDownError(RuntimeError):
    """So many images in a row cannot be read that it is the store, and not the images."""


@dataclass(slots=True)
class _Loaded:
    """What a task has read, num_bytes in all, and how long that and screening it took.

    lost: per image, whether a store that should have it did not give it.
    """

    images: list[EncodedImage]
    lost: list[bool]
    num_bytes: int
    read_s: float
    screen_s: float = 0.0


class ReadAhead:
    """Reads and screens the images of a shard in `num_threads` threads.

    Up to `max_images`, or 16 if that is more, are read beyond the 16 in use, but no more once half
    a gigabyte of them waits. Files elsewhere are read by up to 256 threads, as these mostly wait;
    an archive that is best gone through once, by a thread of its own. `read_s` and `screen_s` are
    the seconds that the threads have spent, added up; `mean_ready` is how many images lay ready
    when the next were asked for: about 0 where reading holds the decoder up.

    It is gone through once. The threads begin when the first image is asked for, or with
    `start_early`, and end with the last image or with `close`.
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
        self._runs = deque(_runs(refs))
        self._tasks: deque[Future[_Loaded]] = deque()
        self._ahead = 0  # images of the tasks
        self._reading: _Reading | None = None
        self._closed = False

    @property
    def mean_ready(self) -> float:
        return self._ready / max(1, self._asked)

    def start_early(self) -> None:
        """Begin to read, unless the shard before may still be going through the same archive."""
        if not (self._refs and is_read_once(self._refs[0])):
            self._start()

    def _start(self) -> _Reading:
        if self._reading is None:
            self._reading = self._make_reading()
            self._submit_more(self._reading)
        return self._reading

    def close(self) -> None:
        """Read no more; for another thread's use, where CancelledError is raised from now on."""
        self._closed = True
        if self._reading is not None:
            self._reading.close()

    def __iter__(self) -> Iterator[EncodedImage]:
        """The images in the order of their references; one that cannot be read says so.

        Raises StoreDownError or AccessError when it is not the images that something is wrong
        with: the shard is to be tried again. CancelledError once it is closed.
        """
        try:
            yield from self._in_order()
        finally:
            self.close()

    def _make_reading(self) -> _Reading:
        if self._refs and is_streamed(self._refs[0]):
            return _ReadingArchive(self._refs, self._limits, self._num_threads)
        elsewhere = any(is_elsewhere(ref) for ref in self._refs)
        num_readers = min(_REMOTE_READS, self._max_images) if elsewhere else 0
        return _Reading(self._refs, self._limits, self._num_threads, num_readers)

    def _submit_more(self, reading: _Reading) -> None:
        while self._runs and (
            not self._tasks or self._ahead + len(self._runs[0]) <= self._max_images
        ):
            self._ahead += len(self._runs[0])
            self._tasks.append(reading.submit(self._runs.popleft()))

    def _in_order(self) -> Iterator[EncodedImage]:
        reading = self._start()
        lost_in_a_row = 0
        while self._tasks:
            if self._closed:
                raise CancelledError
            self._ready += reading.num_ready
            self._asked += 1
            loaded = self._tasks.popleft().result()
            self._ahead -= len(loaded.images)
            reading.take(loaded)
            self._submit_more(reading)
            self.read_s += loaded.read_s
            self.screen_s += loaded.screen_s
            for image, lost in zip(loaded.images, loaded.lost, strict=True):
                lost_in_a_row = lost_in_a_row + 1 if lost else 0
                if lost_in_a_row == _MOST_LOST_IN_A_ROW:
                    raise StoreDownError(
                        f"{lost_in_a_row} images in a row, the last: {image.error}"
                    )
                yield image


def _runs(refs: Sequence[ImageRef]) -> Iterator[range]:
    """The rows of each task: members of an archive and files on disk by 16, other files alone."""
    start = 0
    while start < len(refs):
        stop = start + 1
        while (
            stop < min(start + _IMAGES_PER_TASK, len(refs))
            and not _is_read_alone(refs[start])
            and not _is_read_alone(refs[stop])
        ):
            stop += 1
        yield range(start, stop)
        start = stop


def _is_read_alone(ref: ImageRef) -> bool:
    return ref.container is None and is_elsewhere(ref)


class _Reading:
    """Tasks that read and screen in `num_threads` threads, or read in `num_readers` others.

    As many as read from elsewhere are far too many to screen.
    """

    def __init__(
        self, refs: Sequence[ImageRef], limits: Limits, num_threads: int, num_readers: int
    ) -> None:
        self._refs = refs
        self._limits = limits
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        self._readers = ThreadPoolExecutor(num_readers, "read-remote") if num_readers else None
        self._room = threading.Condition()
        self._bytes = 0  # read, or being read as far as the plan tells, and not yet in use
        self._next_row = 0
        self.num_ready = 0  # images read and screened, and not yet in use

    def submit(self, rows: range) -> Future[_Loaded]:
        if self._readers is None:
            return self._pool.submit(lambda: self._screened(self._load(rows)))
        loaded = self._readers.submit(self._load, rows)
        return self._pool.submit(lambda: self._screened(loaded.result()))

    def take(self, loaded: _Loaded) -> None:
        """What a task has read is in use now."""
        with self._room:
            self._bytes -= loaded.num_bytes
            self.num_ready -= len(loaded.images)
            self._next_row = loaded.images[-1].row + 1
            self._room.notify_all()

    def close(self) -> None:
        with self._room:
            self._next_row = len(self._refs)  # nobody waits for room any more
            self._room.notify_all()
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, ref: ImageRef) -> bytes:
        return read_image(ref)

    def _load(self, rows: range) -> _Loaded:
        planned = sum(self._refs[row].num_bytes or 0 for row in rows)
        with self._room:  # always for the images that are used next
            self._room.wait_for(
                lambda: self._bytes <= _MOST_BYTES_AHEAD or rows.start <= self._next_row
            )
            self._bytes += planned
        began = time.perf_counter()
        found = [_read(row, self._refs[row], self._read) for row in rows]
        read_s = time.perf_counter() - began
        images = [image for image, _ in found]
        num_bytes = sum(len(image.data) for image in images if image.data)
        with self._room:
            self._bytes += num_bytes - planned
        return _Loaded(images, [lost for _, lost in found], num_bytes, read_s)

    def _screened(self, loaded: _Loaded) -> _Loaded:
        began = time.perf_counter()
        for image in loaded.images:
            screen(image, self._limits)
        loaded.screen_s = time.perf_counter() - began
        with self._room:
            self.num_ready += len(loaded.images)
        return loaded


class _ReadingArchive(_Reading):
    """Tasks that read an archive in its order, which takes one thread."""

    def __init__(self, refs: Sequence[ImageRef], limits: Limits, num_threads: int) -> None:
        super().__init__(refs, limits, num_threads, num_readers=1)
        self._stream = ArchiveStream(refs)

    def _read(self, ref: ImageRef) -> bytes:
        try:
            return self._stream.read(ref)
        except TemporaryReadError as error:
            # The images behind this one would wait as long, each for itself.
            raise StoreDownError(f"{ref.uri} cannot be read: {error}") from error

    def close(self) -> None:
        super().close()
        self._stream.close()


def read_and_screen(row: int, ref: ImageRef, limits: Limits) -> EncodedImage:
    """One image's bytes and what they say; one that cannot be read or decoded says why."""
    image, _ = _read(row, ref, read_image)
    screen(image, limits)
    return image


def _read(row: int, ref: ImageRef, read: Callable[[ImageRef], bytes]) -> tuple[EncodedImage, bool]:
    """(the image, whether a store that should have it did not give it)."""
    image = EncodedImage(row, num_bytes=ref.num_bytes)
    try:
        image.data = read(ref)
    except OSError as error:
        image.fail(Status.UNREADABLE, error.strerror or str(error))
        lost = isinstance(error, ReadError) and not isinstance(error, MissingError)
        return image, lost and not is_web(ref.uri)
    return image, False
