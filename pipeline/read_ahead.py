"""References -> screened bytes, in order, read by threads ahead of their use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screen import Limits, screen
from pipeline.sources import read_image

_IMAGES_PER_TASK = 16  # a task costs the pool some 50 µs, a small image less


class ReadAhead:
    """Reads and screens the images of a shard in `num_threads` threads.

    Images are read 16 at a time: up to `max_images`, or 16 if that is more, are read beyond the 16
    in use. `read_s` and `screen_s` are the seconds
    that the threads have spent, added up.
    """

    def __init__(
        self, refs: Sequence[ImageRef], limits: Limits, *, num_threads: int, max_images: int
    ) -> None:
        self.read_s = 0.0
        self.screen_s = 0.0
        self._refs = refs
        self._limits = limits
        self._num_threads = num_threads
        self._max_tasks = max(1, max_images // _IMAGES_PER_TASK)

    def __iter__(self) -> Iterator[EncodedImage]:
        """The images in the order of their references; one that cannot be read says so."""
        starts = iter(range(0, len(self._refs), _IMAGES_PER_TASK))
        tasks: deque[Future[tuple[list[EncodedImage], float, float]]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="read")
        try:
            tasks.extend(
                pool.submit(self._load, start) for start in islice(starts, self._max_tasks)
            )
            while tasks:
                images, read_s, screen_s = tasks.popleft().result()
                self.read_s += read_s
                self.screen_s += screen_s
                tasks.extend(pool.submit(self._load, start) for start in islice(starts, 1))
                yield from images
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, start: int) -> tuple[list[EncodedImage], float, float]:
        began = time.perf_counter()
        images = [
            _read(row, self._refs[row])
            for row in range(start, min(start + _IMAGES_PER_TASK, len(self._refs)))
        ]
        read = time.perf_counter()
        for image in images:
            screen(image, self._limits)
        return images, read - began, time.perf_counter() - read


def read_and_screen(row: int, ref: ImageRef, limits: Limits) -> EncodedImage:
    """One image's bytes and what they say; one that cannot be read or decoded says why."""
    image = _read(row, ref)
    screen(image, limits)
    return image


def _read(row: int, ref: ImageRef) -> EncodedImage:
    image = EncodedImage(row, num_bytes=ref.num_bytes)
    try:
        image.data = read_image(ref)
    except OSError as error:
        image.fail(Status.UNREADABLE, error.strerror or str(error))
    return image
