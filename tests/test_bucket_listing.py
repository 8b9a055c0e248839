"""However a bucket's keys are spread over folders: all of them, once, in byte order."""

import threading
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import MANY_KEYS, Proxy, use_s3

from pipeline.stores.bucket_listing import list_bucket
from pipeline.stores.bucket_store import BucketStore, StoredObject
from pipeline.stores.errors import TransientStoreError
from pipeline.stores.storage import list_objects


class Keys(BucketStore):
    """A bucket in memory; what it does is what S3 says that it does."""

    def __init__(self, keys: set[str], *, page_size: int = 3) -> None:
        self.page_size = page_size
        self.keys = sorted(keys, key=str.encode)
        self.requests = 0

    def pages(
        self, prefix: str, *, delimiter: str = ""
    ) -> Generator[list[StoredObject], None, None]:
        items = {}
        for key in self.keys:
            if key.startswith(prefix):
                folder, found, _ = key[len(prefix) :].partition(delimiter or "\0")
                name, size = (prefix + folder + delimiter, None) if found else (key, 1)
                items[name] = StoredObject(name, size)
        found = list(items.values())
        for start in range(0, max(1, len(found)), self.page_size):
            self.requests += 1
            yield found[start : start + self.page_size]


_KEYS = st.sets(st.text("ab/-é", min_size=1, max_size=6), max_size=40)


@settings(deadline=None, max_examples=200)
@given(keys=_KEYS, prefix=st.sampled_from(["", "a", "a/", "b-"]))
def test_every_key_comes_once_and_in_order(keys: set[str], prefix: str) -> None:
    store = Keys(keys)
    found = [item.key for item in list_bucket(store, prefix)]
    assert found == [key for key in store.keys if key.startswith(prefix)]


def test_a_small_folder_takes_one_request_and_a_flat_one_two_more_than_its_pages() -> None:
    small, flat = Keys({"a", "b"}), Keys({f"{number:03d}" for number in range(99)})
    list(list_bucket(small, ""))
    list(list_bucket(flat, ""))
    assert (small.requests, flat.requests) == (1, 33 + 2)


def test_folders_of_folders_are_listed_side_by_side() -> None:
    together = threading.Barrier(12, timeout=5)

    class Slow(Keys):
        def pages(
            self, prefix: str, *, delimiter: str = ""
        ) -> Generator[list[StoredObject], None, None]:
            if prefix.count("/") == 3 and not delimiter:
                together.wait()  # the twelve innermost folders, or none
            yield from super().pages(prefix, delimiter=delimiter)

    keys = {f"all/{half}/{folder}/{n}" for half in "ab" for folder in "012345" for n in range(9)}
    store = Slow(keys, page_size=8)
    assert [item.key for item in list_bucket(store, "")] == store.keys


def test_whoever_stops_listing_leaves_no_thread() -> None:
    listing = list_bucket(Keys({f"{n % 3}/{n}" for n in range(3000)}), "")
    assert next(listing).key == "0/0"
    listing.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_thousands_of_objects_of_a_server_come_page_by_page(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(s3_url)
    with proxy.running():
        use_s3(proxy.url, monkeypatch)
        found = [location for location, _ in list_objects("s3://many/")]
        assert found == [f"s3://many/{key}" for key in MANY_KEYS]
        assert len(proxy.requests) == 6 + 2


def test_a_folder_that_cannot_be_listed_is_never_left_out() -> None:
    class Broken(Keys):
        def pages(
            self, prefix: str, *, delimiter: str = ""
        ) -> Generator[list[StoredObject], None, None]:
            if prefix == "4/":
                raise TransientStoreError("busy")
            yield from super().pages(prefix, delimiter=delimiter)

    store = Broken({f"{n % 9}/{n}" for n in range(99)}, page_size=9)
    listing = list_bucket(store, "")
    with pytest.raises(TransientStoreError, match="busy"):
        list(listing)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
