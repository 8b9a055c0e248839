"""Runs an iterator in a thread, ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")

_POLL_S = 0.1
_END = object()


def prefetch(items: Iterator[_Item], count: int) -> Generator[_Item, None, None]:
    """The same items in the same order; up to `count` wait, while one more is being produced.

    An error of the iterator is raised in its place. The thread ends with the items, or when the
    generator is closed.
    """
    produced: queue.Queue[Any] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                produced.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # raised again in the consumer's thread
            put((_END, error))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = produced.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
