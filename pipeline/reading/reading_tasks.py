"""Thread pools that read and screen runs of images, within a memory limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pipeline.error_text import named, reason_of
from pipeline.inputs.image_bytes import (
    ArchiveStream,
    expected_bytes,
    has_unknown_size,
    read_image,
)
from pipeline.inputs.manifest_entries import is_entry
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits, screen
from pipeline.stores.errors import (
    ColdStorageError,
    MissingError,
    ShutdownError,
    StoreError,
    TooLargeError,
)
from pipeline.stores.http_transfer import MAX_BYTES
from pipeline.stores.locations import is_web

_MAX_BYTES_AHEAD = 1 << 29
# The memory that a remote file of unknown size gets, and gets next where that was too little. The
# first is enough for most images, and there is room for it for all threads at once.
_UNKNOWN_SIZES = (1 << 21, 1 << 23, 1 << 25, 1 << 27, MAX_BYTES)
_NO_FAULT_OF_THE_STORE = (ColdStorageError, MissingError, TooLargeError)


class StoreDownError(RuntimeError):
    """So many images in a row cannot be read that the store or disk fails, not the images."""


@dataclass(slots=True)
class LoadedRun:
    """The images of one task.

    store_errors: per image, why its store or disk failed to return it, though it should exist
    there; else None. num_bytes: the memory taken for the images. read_s, screen_s: seconds spent on
    them.
    """

    images: list[EncodedImage]
    store_errors: list[StoreError | None]
    num_bytes: int
    read_s: float
    screen_s: float = 0.0


class ReadPool:
    """Reads and screens runs of images in `num_threads` threads.

    With `num_readers` > 0, that many other threads do the reading: remote files need far more
    threads to read than to screen.
    """

    def __init__(
        self, refs: Sequence[ImageRef], limits: Limits, num_threads: int, num_readers: int
    ) -> None:
        self._refs = refs
        self._limits = limits
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        self._readers = ThreadPoolExecutor(num_readers, "read-remote") if num_readers else None
        self._changed = threading.Condition()  # guards what follows
        self._bytes = 0  # of images not yet in use; those being read count by their expected size
        self._next_row = 0
        self._closed = False
        self._first_size = 0  # of _UNKNOWN_SIZES, with which the next file's reading begins
        self.num_ready = 0  # images read and screened, and not yet in use

    def submit(self, rows: range) -> Future[LoadedRun]:
        if self._readers is None:
            return self._pool.submit(self._load, rows, screening=True)
        loaded = self._readers.submit(self._load, rows, screening=False)
        return self._pool.submit(lambda: self._screened(loaded.result()))

    def mark_used(self, loaded: LoadedRun) -> None:
        """The caller uses these images now: they no longer count against the memory limit."""
        with self._changed:
            self._bytes -= loaded.num_bytes
            self.num_ready -= len(loaded.images)
            self._next_row = loaded.images[-1].row + 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._closed = True  # ends the threads that wait for memory
            self._changed.notify_all()
        for threads in self._threads():
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self.stop()
        for threads in self._threads():
            threads.shutdown(wait=True)

    def _threads(self) -> list[ThreadPoolExecutor]:
        return [threads for threads in (self._readers, self._pool) if threads is not None]

    def _read(self, ref: ImageRef) -> bytes:
        return read_image(ref)

    def _load(self, rows: range, *, screening: bool) -> LoadedRun:
        """screening: screen each image once it is read, which frees the bytes of a non-image."""
        loaded = LoadedRun([], [], 0, 0.0)
        for row in rows:
            taken_before, began = loaded.num_bytes, time.perf_counter()
            read = partial(self._read_in_turn, rows=rows, loaded=loaded)
            image, store_error = _encoded_image(row, self._refs[row], read)
            loaded.read_s += time.perf_counter() - began
            if screening:
                self._screen(image, loaded)
            self._take(taken_before + len(image.data) - loaded.num_bytes, loaded)
            loaded.images.append(image)
            loaded.store_errors.append(store_error)
        if screening:
            self._count_ready(loaded)
        return loaded

    def _read_in_turn(self, ref: ImageRef, rows: range, loaded: LoadedRun) -> bytes:
        """Read an image once there is memory for it.

        A remote file of unknown size that turns out to need more gives its memory back, waits for
        more and is asked for again: a request that waits half-way would be ended by its server.
        """
        if not has_unknown_size(ref):
            self._wait_for_memory(expected_bytes(ref), rows, loaded)
            return self._read(ref)
        *sizes, largest = _UNKNOWN_SIZES[self._first_size :]
        for size in sizes:
            self._wait_for_memory(size, rows, loaded)
            with suppress(TooLargeError):
                return self._read_up_to(size, ref)
            self._take(-size, loaded)
        self._wait_for_memory(largest, rows, loaded)
        return self._read_up_to(largest, ref)

    def _read_up_to(self, max_bytes: int, ref: ImageRef) -> bytes:
        data = read_image(ref, max_bytes)
        # Where there are large photographs, there are more of them.
        self._first_size = int(len(data) > _UNKNOWN_SIZES[0])
        return data

    def _wait_for_memory(self, num_bytes: int, rows: range, loaded: LoadedRun) -> None:
        """Take memory once some is free. The images that are used next never wait: no deadlock."""
        began = time.perf_counter()
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or self._bytes <= _MAX_BYTES_AHEAD or rows.start <= self._next_row
                )
            )
            if self._closed:
                raise CancelledError
            self._take(num_bytes, loaded)
        loaded.read_s -= time.perf_counter() - began  # within the time of its reading

    def _take(self, num_bytes: int, loaded: LoadedRun) -> None:
        """Count memory for a run; fewer than 0 bytes are given back."""
        with self._changed:
            self._bytes += num_bytes
            loaded.num_bytes += num_bytes
            if num_bytes < 0:
                self._changed.notify_all()

    def _screened(self, loaded: LoadedRun) -> LoadedRun:
        for image in loaded.images:
            self._screen(image, loaded)
        self._count_ready(loaded)
        return loaded

    def _screen(self, image: EncodedImage, loaded: LoadedRun) -> None:
        began = time.perf_counter()
        try:
            screen(image, self._limits)
        except Exception as error:  # a defect: the shard fails, and this image is to be found
            uri = self._refs[image.row].uri
            raise RuntimeError(f"{uri} cannot be checked: {named(error)}") from error
        loaded.screen_s += time.perf_counter() - began

    def _count_ready(self, loaded: LoadedRun) -> None:
        with self._changed:
            self.num_ready += len(loaded.images)


class ArchiveReadPool(ReadPool):
    """Reads an archive in its order, in one thread; screens in `num_threads` others."""

    def __init__(self, refs: Sequence[ImageRef], limits: Limits, num_threads: int) -> None:
        super().__init__(refs, limits, num_threads, num_readers=1)
        self._stream = ArchiveStream(refs)

    def _read(self, ref: ImageRef) -> bytes:
        try:
            return self._stream.read(ref)
        except MissingError:
            raise
        except StoreError as error:
            # It is the archive that the store does not return, so no later image can be read.
            raise StoreDownError(f"{ref.uri} cannot be read: {reason_of(error)}") from error

    def close(self) -> None:
        super().close()
        self._stream.close()


def read_and_screen(row: int, ref: ImageRef, limits: Limits) -> EncodedImage:
    """One image, read and screened; its `status` and `error` say what is wrong with it."""
    image, _ = _encoded_image(row, ref, read_image)
    screen(image, limits)
    return image


def _encoded_image(
    row: int, ref: ImageRef, read: Callable[[ImageRef], bytes]
) -> tuple[EncodedImage, StoreError | None]:
    """(image, why its store failed to return it or None): see `LoadedRun.store_errors`."""
    image = EncodedImage(row, num_bytes=ref.num_bytes)
    try:
        image.data = read(ref)
    except ShutdownError:  # a row saying that it is unreadable would be final
        raise
    except OSError as error:
        image.fail(Status.UNREADABLE, reason_of(error))
        if not isinstance(error, StoreError) or isinstance(error, _NO_FAULT_OF_THE_STORE):
            return image, None
        # A web crawl has many hosts, and one that is gone says nothing about the others; but the
        # signatures in a manifest expire together.
        return image, None if is_web(ref.uri) and not is_entry(ref.source or "") else error
    return image, None
