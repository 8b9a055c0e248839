"""A bucket with S3's REST interface: lists its keys, and gives the URLs of its objects."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import NamedTuple
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree

from pipeline.stores.errors import SourceError, StoreError
from pipeline.stores.http_transfer import Resource, Sign, get

_BUCKET = re.compile(r"[a-z0-9A-Z][\w.-]{1,221}")
_MAX_LISTING_BYTES = 64 << 20
_KEY_SAFE = "/-_.~"  # the characters that a signature leaves unescaped


class StoredObject(NamedTuple):
    """An object; or a folder, whose key has a final slash and whose `num_bytes` is None.

    modified: ISO 8601, as the store gives it.
    """

    key: str
    num_bytes: int | None
    modified: str = ""


class BucketStore:
    """One bucket. base_url: of its objects, without the key. sign: see `http_transfer.Sign`."""

    def __init__(self, base_url: str, sign: Sign) -> None:
        self._base_url = base_url
        self._sign = sign

    def resource(self, key: str) -> Resource:
        return Resource(f"{self._base_url}/{quote(key, safe=_KEY_SAFE)}", self._sign, "store")

    def pages(
        self, prefix: str, *, delimiter: str = ""
    ) -> Generator[list[StoredObject], None, None]:
        """The objects whose keys start with `prefix`, in byte order; at least one page.

        delimiter: with "/", the keys of a subfolder are replaced by one entry for the subfolder.
        Raises OSError, AccessError.
        """
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        query |= {"delimiter": delimiter} if delimiter else {}
        while True:
            words = (f"{name}={quote(value, safe='-_.~')}" for name, value in query.items())
            listing = Resource(f"{self._base_url}?{'&'.join(words)}", self._sign, "store")
            page, token = _parse(get(listing, max_bytes=_MAX_LISTING_BYTES).data)
            yield page
            if token is None:
                return
            query["continuation-token"] = token


def check_bucket_name(bucket: str, location: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise SourceError(f"{location!r} names no bucket: write scheme://bucket/key")


def _parse(data: bytes) -> tuple[list[StoredObject], str | None]:
    """(objects and folders of one page in byte order, token of the next page or None)."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise StoreError(f"the store's listing is not XML: {error}") from None
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    if root.tag != f"{space}ListBucketResult":
        found_tag = root.tag.removeprefix(space)
        raise StoreError(f"the store's listing is <{found_tag}>, not <ListBucketResult>")
    encoded = root.findtext(f"{space}EncodingType") == "url"  # not every store supports it

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
