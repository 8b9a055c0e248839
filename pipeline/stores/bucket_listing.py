"""All keys of a bucket below a prefix, in byte order; the folders of a large one side by side.

A store lists a thousand keys a request and takes some tenth of a second for it: ten million keys
one page after the other are a quarter of an hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.run_ahead import run_ahead
from pipeline.stores.bucket_store import BucketStore, StoredObject

_FOLDERS_AHEAD = 16
_PAGES_AHEAD = 4  # of each of them
_DEPTH = 2  # folders of folders, such as train/ and val/ with one for each class

_Page = list[StoredObject]
_Pages = Generator[_Page, None, None]


def list_bucket(store: BucketStore, prefix: str) -> Iterator[StoredObject]:
    """The keys that begin with `prefix`. Raises what `BucketStore.pages` raises."""
    for page in _pages(store, prefix, _DEPTH):
        yield from page


def _pages(store: BucketStore, prefix: str, depth: int) -> _Pages:
    pages = store.pages(prefix)
    first = next(pages)
    second = next(pages, None)
    top = _top(store, prefix) if second is not None and depth > 0 else None
    if top is not None:
        yield from _side_by_side(store, top, depth - 1)
        return
    yield first
    if second is not None:
        yield second
        yield from pages


def _top(store: BucketStore, prefix: str) -> _Page | None:
    """The folders and keys right below a prefix, if they fit on a page and it helps to know them.

    Where there are more folders, most hold few keys, and each would cost a request.
    """
    pages = store.pages(prefix, delimiter="/")
    top = next(pages)
    if next(pages, None) is not None:
        return None
    folders = [item.key for item in top if item.num_bytes is None]
    if len(folders) == len(top) == 1:
        return _top(store, folders[0])
    return top if len(folders) > 1 else None


def _side_by_side(store: BucketStore, top: _Page, depth: int) -> _Pages:
    """The pages of each folder in its place, those ahead of the one whose turn it is begun."""
    begun: deque[tuple[Future[_Page | None], _Pages]] = deque()
    waiting = deque(top)
    with ThreadPoolExecutor(_FOLDERS_AHEAD, thread_name_prefix="list") as pool:
        try:
            while waiting or begun:
                while waiting and len(begun) < _FOLDERS_AHEAD:
                    pages = run_ahead(_pages_of(store, waiting.popleft(), depth), _PAGES_AHEAD)
                    begun.append((pool.submit(next, pages, None), pages))
                first, pages = begun.popleft()
                yield first.result() or []
                yield from pages
        finally:
            pool.shutdown(wait=True)
            for _, pages in begun:
                pages.close()


def _pages_of(store: BucketStore, item: StoredObject, depth: int) -> _Pages:
    if item.num_bytes is None:
        yield from _pages(store, item.key, depth)
    else:
        yield [item]
