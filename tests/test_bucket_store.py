"""A bucket is listed whole and in order, and every key that S3 allows is read by its own name."""

import itertools

import pytest
from servers import Bucket, Proxy, WebServer

from pipeline.stores.bucket_store import BucketStore
from pipeline.stores.errors import AccessError, SourceError, StoreError, TransientStoreError
from pipeline.stores.storage import list_objects, read

# What people and programs call their files, and what file systems would make of it.
ODD_KEYS = ["a//b.jpg", "folder/x.jpg", "/lead.jpg", "sp ace.jpg", "é.jpg", "100%.jpg", "a%20b"]
ODD_KEYS += ["a+b.jpg", "q?.jpg", "h#.jpg", "back\\slash", "p/../q", "./x", "*", "[x]", "a/./b"]
ODD_KEYS += ["a&b=c;d,e", "ctrl\x01", "a:b@c", "<x>", '"quote"', "ｆｕｌｌ", "~{}|^`", "not-empty/"]


def test_odd_keys_are_listed_and_read_as_they_are(s3: Bucket) -> None:
    s3.write({key: key.encode() for key in ODD_KEYS})
    found = list(list_objects(f"{s3.url}/"))
    assert [location for location, _ in found] == sorted(
        (f"{s3.url}/{key}" for key in ODD_KEYS), key=str.encode
    )
    for location, num_bytes in found:
        assert read(location) == location.removeprefix(f"{s3.url}/").encode()
        assert num_bytes == len(read(location))


def test_markers_of_folders_are_no_files(s3: Bucket) -> None:
    s3.write({"folder/": b"", "folder/a": b"1", "folder/sub/": b"", "empty": b""})
    assert [key for key, _ in list_objects(f"{s3.url}/")] == [
        f"{s3.url}/empty",
        f"{s3.url}/folder/a",
    ]


@pytest.mark.usefixtures("persistent")
def test_a_listing_goes_on_through_faults_or_says_why_not(s3: Bucket, proxy: Proxy) -> None:
    s3.write({"a": b"1"})
    proxy.faults["list-type"] = ["503:SlowDown", "reset-midway"]
    assert len(list(list_objects(f"{s3.url}/"))) == 1
    proxy.faults["list-type"] = ["503:SlowDown"] * 3
    with pytest.raises(TransientStoreError, match="HTTP 503 SlowDown; tried 3 times"):
        list(list_objects(f"{s3.url}/"))
    proxy.faults["list-type"] = ["403:InvalidAccessKeyId"]
    with pytest.raises(AccessError, match="HTTP 403 InvalidAccessKeyId"):
        list(list_objects(f"{s3.url}/"))
    with pytest.raises(AccessError, match="HTTP 404 NoSuchBucket"):
        list(list_objects("s3://no-such-bucket/"))


def test_keys_by_folder(s3: Bucket, s3_url: str) -> None:
    s3.write(dict.fromkeys(("a b/1", "a-1", "a/1", "a/2", "ab", "é/1", "é/2"), b""))
    store = BucketStore(f"{s3_url}/{s3.name}", lambda *_: {})
    (page,) = store.pages("", delimiter="/")
    assert [item.key for item in page] == ["a b/", "a-1", "a/", "ab", "é/"]
    assert [item.num_bytes for item in page] == [None, 0, None, 0, None]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"<html>", "is not XML"), (b"<html/>", "is <html>, not"), (b"", "is not XML")],
)
def test_what_answers_is_no_store(body: bytes, message: str) -> None:
    web = WebServer({"/b": body})
    with web.running(), pytest.raises(StoreError, match=f"the store's listing .*{message}"):
        list(BucketStore(f"{web.url}/b", lambda *_: {}).pages(""))


def test_an_empty_token_ends_a_listing() -> None:
    page = b"<ListBucketResult><Contents><Key>a</Key></Contents><NextContinuationToken/>"
    web = WebServer({"/b": page + b"</ListBucketResult>"})
    with web.running():
        (listed,) = itertools.islice(BucketStore(f"{web.url}/b", lambda *_: {}).pages(""), 3)
    assert [item.key for item in listed] == ["a"]


def test_what_names_no_bucket_is_refused() -> None:
    for location in ("s3:///a", "s3://a b/c", "s3://x@y/c", "gs://", "gs://b?c/d"):
        with pytest.raises(SourceError, match="names no bucket: write scheme://bucket/key"):
            read(location)
