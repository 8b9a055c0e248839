"""References -> screened bytes, in order, read by threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

from pipeline.inputs.image_bytes import is_elsewhere, is_read_once, is_streamed
from pipeline.reading.reading_tasks import Loaded, Reading, ReadingArchive, StoreDownError
from pipeline.records import EncodedImage, ImageRef
from pipeline.screening.screen import Limits
from pipeline.stores.attempts import TemporaryReadError

_IMAGES_PER_TASK = 16  # a task costs the pool some 50 µs, a small image less
_MOST_BYTES_PER_TASK = 1 << 26  # as far as the plan tells: all of them are in memory at once
_REMOTE_READS = 256  # under way at once: at 50 ms each 5,000 images/s
_MOST_LOST_IN_A_ROW = 32
_FEW_LOST = 8  # of a store that fails, rather than refuses; or all that a shard has


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
        self._tasks: deque[Future[Loaded]] = deque()
        self._ahead = 0  # images of the tasks
        self._reading: Reading | None = None
        self._closed = False

    @property
    def mean_ready(self) -> float:
        return self._ready / max(1, self._asked)

    def start_early(self) -> None:
        """Begin to read, unless the shard before may still be going through the same archive."""
        if not (self._refs and is_read_once(self._refs[0])):
            self._start()

    def _start(self) -> Reading:
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

    def _make_reading(self) -> Reading:
        if self._refs and is_streamed(self._refs[0]):
            return ReadingArchive(self._refs, self._limits, self._num_threads)
        elsewhere = any(is_elsewhere(ref) for ref in self._refs)
        num_readers = min(_REMOTE_READS, self._max_images) if elsewhere else 0
        return Reading(self._refs, self._limits, self._num_threads, num_readers)

    def _submit_more(self, reading: Reading) -> None:
        while self._runs and (
            not self._tasks or self._ahead + len(self._runs[0]) <= self._max_images
        ):
            self._ahead += len(self._runs[0])
            try:
                self._tasks.append(reading.submit(self._runs.popleft()))
            except RuntimeError as error:  # its threads have just been ended
                if self._closed:
                    raise CancelledError from error
                raise

    def _in_order(self) -> Iterator[EncodedImage]:
        reading = self._start()
        most_lost = min(_MOST_LOST_IN_A_ROW, max(len(self._refs), _FEW_LOST))
        lost_in_a_row = failed_in_a_row = 0
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
                failed = isinstance(lost, TemporaryReadError)
                failed_in_a_row = failed_in_a_row + 1 if failed else 0
                if lost_in_a_row == most_lost or failed_in_a_row == _FEW_LOST:
                    raise StoreDownError(
                        f"{lost_in_a_row} images in a row, the last: {image.error}"
                    )
                yield image


def _runs(refs: Sequence[ImageRef]) -> Iterator[range]:
    """The rows of each task: members of an archive and files on disk by 16, others alone."""
    start = 0
    while start < len(refs):
        stop, num_bytes = start + 1, refs[start].num_bytes or 0
        while (
            stop < min(start + _IMAGES_PER_TASK, len(refs))
            and (num_bytes := num_bytes + (refs[stop].num_bytes or 0)) <= _MOST_BYTES_PER_TASK
            and not _is_read_alone(refs[start])
            and not _is_read_alone(refs[stop])
        ):
            stop += 1
        yield range(start, stop)
        start = stop


def _is_read_alone(ref: ImageRef) -> bool:
    return ref.container is None and is_elsewhere(ref)
