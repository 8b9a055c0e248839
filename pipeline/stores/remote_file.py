"""A remote file as a Python file: read in blocks, those ahead of the reader in parallel."""

from __future__ import annotations

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from pipeline.stores.attempts import MissingError, TemporaryReadError
from pipeline.stores.http_transfer import Resource, get

BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 8  # 36 MiB a file at most; one connection alone gives less than a network does
_MOST_FETCHES = 64  # under way for all files of the process
_HEAD_BYTES = 1 << 16
_MOST_UNRANGED_BYTES = 64 << 20  # of a file that a server gives whole or not at all


class RemoteFile(io.RawIOBase):
    """Reads one resource, for one thread at a time; fast from front to back.

    Blocks are fetched ahead once the reader has gone from one to the next, up to `read_ahead_to`
    (bytes from the start) where a reader says so. Raises what `http_transfer.get` raises, and
    TemporaryReadError for a file that is no longer the one that was opened: another can be.
    """

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._position = 0
        self._blocks: dict[int, Future[bytes]] = {}
        self._last_block = -1
        first = get(resource, 0, _HEAD_BYTES, most_bytes=_MOST_UNRANGED_BYTES)
        self._head = first.data  # the whole file, where the server knows no ranges
        self._size = first.total_bytes
        self._version = first.version
        self.read_ahead_to = self._size

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
        """Up to the end of the block at hand, as a raw file may; 0 at the end of the file."""
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
            raise TemporaryReadError(f"it was removed while it was read: {error}") from None
        if (answer.total_bytes, answer.version) != (self._size, self._version):
            raise TemporaryReadError("it was written again while it was read")
        return answer.data

    def close(self) -> None:
        for future in self._blocks.values():
            future.cancel()
        self._blocks.clear()
        super().close()


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_FETCHES, thread_name_prefix="fetch")


os.register_at_fork(after_in_child=_fetchers.cache_clear)  # threads do not survive a fork
