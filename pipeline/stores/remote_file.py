"""A remote file as a Python file object: fetched in blocks, with parallel prefetch."""

from __future__ import annotations

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from pipeline.stores.errors import ChangedError, MissingError
from pipeline.stores.http_transfer import Resource, get

BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 8  # at most 36 MiB per file; one connection does not use the whole bandwidth
_MAX_CONCURRENT_FETCHES = 64  # of all files of the process
_HEAD_BYTES = 1 << 16
# Of a file whose server does not support byte ranges, or does not say with one how long it is.
_MAX_UNRANGED_BYTES = 64 << 20


class RemoteFile(io.RawIOBase):
    """Reads one resource, for one thread at a time; fastest from start to end.

    While blocks are read in sequence, the next ones are prefetched, up to byte `read_ahead_to`
    where the reader sets one. Raises what `http_transfer.get` raises, and ChangedError
    when the file is no longer the one that was opened: the new one can be opened.
    """

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._position = 0
        self._blocks: dict[int, Future[bytes]] = {}
        self._last_block = -1
        first = get(resource, 0, _HEAD_BYTES, max_bytes=_MAX_UNRANGED_BYTES)
        if first.total_bytes is None:  # without a range, the end is where the server ends
            first = get(resource, max_bytes=_MAX_UNRANGED_BYTES)
        self._head = first.data  # the whole file, if the server does not support byte ranges
        self._size = len(first.data) if first.total_bytes is None else first.total_bytes
        self._version = first.version
        self.read_ahead_to = self._size

    @property
    def whole(self) -> bytes | None:
        """The content, if all of it came when the file was opened."""
        return self._head if len(self._head) == self._size else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the current block; returns 0 at the end of the file."""
        start = self._position
        if start >= self._size:
            return 0
        if start < len(self._head):
            data, within = self._head, start
        else:
            data, within = self._block(start // BLOCK_BYTES), start % BLOCK_BYTES
        count = min(len(buffer), len(data) - within)
        buffer[:count] = memoryview(data)[within : within + count]
        self._position += count
        return count

    def _block(self, index: int) -> bytes:
        in_sequence = index in (self._last_block, self._last_block + 1)
        self._last_block = index
        ahead = _BLOCKS_AHEAD if in_sequence else 0
        wanted = {index} | {
            block
            for block in range(index + 1, index + 1 + ahead)
            if block * BLOCK_BYTES < min(self.read_ahead_to, self._size)
        }
        for block in self._blocks.keys() - wanted:
            self._blocks.pop(block).cancel()
        for block in sorted(wanted - self._blocks.keys()):
            self._blocks[block] = _fetchers().submit(self._fetch, block)
        try:
            return self._blocks[index].result()
        except BaseException:
            del self._blocks[index]
            raise

    def _fetch(self, block: int) -> bytes:
        start = block * BLOCK_BYTES
        try:
            answer = get(self._resource, start, min(start + BLOCK_BYTES, self._size))
        except MissingError as error:
            raise ChangedError(f"it was removed while it was read: {error}") from None
        if (answer.total_bytes, answer.version) != (self._size, self._version):
            raise ChangedError("it was rewritten while it was read")
        return answer.data

    def close(self) -> None:
        for future in self._blocks.values():
            future.cancel()
        self._blocks.clear()
        super().close()


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_CONCURRENT_FETCHES, thread_name_prefix="fetch")


os.register_at_fork(after_in_child=_fetchers.cache_clear)  # threads do not survive a fork
