"""An iterator that a thread runs ahead of its user."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")

_POLL_S = 0.1
_END = object()


def run_ahead(items: Iterator[_Item], count: int) -> Generator[_Item, None, None]:
    """The same items in the same order; up to `count` are made before they are asked for.

    An error is raised where its item would have come. The thread ends when the user stops asking
    (closes the generator) or the items end.
    """
    made: queue.Queue[Any] = queue.Queue(count)
    stopped = threading.Event()

    def hand_over(item: Any) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not hand_over((item, None)):
                    return
            hand_over((_END, None))
        except BaseException as error:  # for the user's thread, which raises it
            hand_over((_END, error))

    thread = threading.Thread(target=produce, name="run-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
