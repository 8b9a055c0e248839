"""What reads and screens runs of images in threads, and keeps what waits in memory bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.error_text import reason_of
from pipeline.inputs.image_bytes import ArchiveStream, bytes_to_expect, read_image
from pipeline.inputs.manifests import is_entry
from pipeline.records import EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits, screen
from pipeline.stores.attempts import ArchivedError, GivenUpError, MissingError, ReadError
from pipeline.stores.locations import is_web

_MOST_BYTES_AHEAD = 1 << 29


class StoreDownError(RuntimeError):
    """So many images in a row cannot be read that it is the store, and not the images."""


@dataclass(slots=True)
class Loaded:
    """What a task has read, num_bytes in all, and how long that and screening it took.

    lost: per image, why a store that should have it did not give it; None where that is not so.
    """

    images: list[EncodedImage]
    lost: list[ReadError | None]
    num_bytes: int
    read_s: float
    screen_s: float = 0.0


class Reading:
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
        self._closed = False
        self.num_ready = 0  # images read and screened, and not yet in use

    def submit(self, rows: range) -> Future[Loaded]:
        if self._readers is None:
            return self._pool.submit(self._load, rows, screening=True)
        loaded = self._readers.submit(self._load, rows, screening=False)
        return self._pool.submit(lambda: self._screened(loaded.result()))

    def take(self, loaded: Loaded) -> None:
        """What a task has read is in use now."""
        with self._room:
            self._bytes -= loaded.num_bytes
            self.num_ready -= len(loaded.images)
            self._next_row = loaded.images[-1].row + 1
            self._room.notify_all()

    def close(self) -> None:
        with self._room:
            self._closed = True  # nobody waits for room any more
            self._room.notify_all()
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, ref: ImageRef) -> bytes:
        return read_image(ref)

    def _load(self, rows: range, *, screening: bool) -> Loaded:
        """screening: each image as soon as it is read, so that a video frees its bytes at once."""
        loaded = Loaded([], [], 0, 0.0)
        for row in rows:
            ref = self._refs[row]
            expected = bytes_to_expect(ref)
            self._wait_for_room(expected, rows)
            began = time.perf_counter()
            image, lost = _read(row, ref, self._read)
            loaded.read_s += time.perf_counter() - began
            if screening:
                self._screen(image, loaded)
            num_bytes = len(image.data or b"")
            with self._room:
                self._bytes += num_bytes - expected
                if num_bytes < expected:
                    self._room.notify_all()
            loaded.images.append(image)
            loaded.lost.append(lost)
            loaded.num_bytes += num_bytes
        if screening:
            self._count_ready(loaded)
        return loaded

    def _wait_for_room(self, num_bytes: int, rows: range) -> None:
        with self._room:  # always for the images that are used next
            self._room.wait_for(
                lambda: (
                    self._closed or self._bytes <= _MOST_BYTES_AHEAD or rows.start <= self._next_row
                )
            )
            if self._closed:
                raise CancelledError
            self._bytes += num_bytes

    def _screened(self, loaded: Loaded) -> Loaded:
        for image in loaded.images:
            self._screen(image, loaded)
        self._count_ready(loaded)
        return loaded

    def _screen(self, image: EncodedImage, loaded: Loaded) -> None:
        began = time.perf_counter()
        screen(image, self._limits)
        loaded.screen_s += time.perf_counter() - began

    def _count_ready(self, loaded: Loaded) -> None:
        with self._room:
            self.num_ready += len(loaded.images)


class ReadingArchive(Reading):
    """Tasks that read an archive in its order, which takes one thread."""

    def __init__(self, refs: Sequence[ImageRef], limits: Limits, num_threads: int) -> None:
        super().__init__(refs, limits, num_threads, num_readers=1)
        self._stream = ArchiveStream(refs)

    def _read(self, ref: ImageRef) -> bytes:
        try:
            return self._stream.read(ref)
        except MissingError:
            raise
        except ReadError as error:
            # It is the archive that the store does not give, and so no image that is behind this.
            raise StoreDownError(f"{ref.uri} cannot be read: {error}") from error

    def close(self) -> None:
        super().close()
        self._stream.close()


def read_and_screen(row: int, ref: ImageRef, limits: Limits) -> EncodedImage:
    """One image's bytes and what they say; one that cannot be read or decoded says why."""
    image, _ = _read(row, ref, read_image)
    screen(image, limits)
    return image


def _read(
    row: int, ref: ImageRef, read: Callable[[ImageRef], bytes]
) -> tuple[EncodedImage, ReadError | None]:
    """(the image, why a store that should have it did not give it: see `Loaded`)."""
    image = EncodedImage(row, num_bytes=ref.num_bytes)
    try:
        image.data = read(ref)
    except GivenUpError:  # its row would be final
        raise
    except OSError as error:
        image.fail(Status.UNREADABLE, reason_of(error))
        if not isinstance(error, ReadError) or isinstance(error, (ArchivedError, MissingError)):
            return image, None
        # Strangers on the web fail each for itself, but signatures expire together.
        return image, None if is_web(ref.uri) and not is_entry(ref.source or "") else error
    return image, None
