"""A bucket behind S3's REST interface: lists its keys, and makes requests for its objects."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import NamedTuple
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree

from pipeline.stores.attempts import ReadError
from pipeline.stores.http_transfer import Resource, Sign, get
from pipeline.stores.locations import SourceError

_BUCKET = re.compile(r"[a-z0-9A-Z][\w.-]{1,221}")
_MOST_LISTING_BYTES = 64 << 20
_KEY_SAFE = "/-_.~"  # what a signature takes as it is


class StoredObject(NamedTuple):
    """A key as it is in the bucket, or a folder of keys (`num_bytes` None, a trailing slash).

    modified: when it was stored, as the store wrote it (ISO 8601).
    """

    key: str
    num_bytes: int | None
    modified: str = ""


class BucketStore:
    """One bucket. base_url: what its keys stand below. sign: gives a request's headers."""

    def __init__(self, base_url: str, sign: Sign) -> None:
        self._base_url = base_url
        self._sign = sign

    def resource(self, key: str) -> Resource:
        return Resource(f"{self._base_url}/{quote(key, safe=_KEY_SAFE)}", self._sign, "store")

    def pages(
        self, prefix: str, *, delimiter: str = ""
    ) -> Generator[list[StoredObject], None, None]:
        """The keys that begin with `prefix`, in the store's byte order; at least one page.

        delimiter: with "/", keys below a folder are given as that folder alone.
        Raises OSError, AccessError.
        """
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        query |= {"delimiter": delimiter} if delimiter else {}
        while True:
            words = (f"{name}={quote(value, safe='-_.~')}" for name, value in query.items())
            listing = Resource(f"{self._base_url}?{'&'.join(words)}", self._sign, "store")
            page, token = _parse(get(listing, most_bytes=_MOST_LISTING_BYTES).data)
            yield page
            if token is None:
                return
            query["continuation-token"] = token


def check_bucket_name(bucket: str, location: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise SourceError(f"{location!r} names no bucket: write scheme://bucket/key")


def _parse(data: bytes) -> tuple[list[StoredObject], str | None]:
    """(keys and folders of one page in byte order, the token of the next page if there is one)."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ReadError(f"the store's listing is no XML: {error}") from None
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    if root.tag != f"{space}ListBucketResult":
        raise ReadError(f"the store's listing is not one: it is <{root.tag.removeprefix(space)}>")
    encoded = root.findtext(f"{space}EncodingType") == "url"  # not every store can

    def key_of(item: ElementTree.Element, name: str) -> str:
        text = item.findtext(f"{space}{name}") or ""
        return unquote_plus(text) if encoded else text

    found = [
        StoredObject(
            key_of(item, "Key"),
            int(item.findtext(f"{space}Size") or 0),
            item.findtext(f"{space}LastModified") or "",
        )
        for item in root.iterfind(f"{space}Contents")
    ]
    folders = [
        StoredObject(key_of(item, "Prefix"), None)
        for item in root.iterfind(f"{space}CommonPrefixes")
    ]
    if folders:
        found = sorted(found + folders, key=lambda item: item.key.encode("utf-8"))
    # Some stores end their last page with an empty token.
    return found, root.findtext(f"{space}NextContinuationToken") or None
