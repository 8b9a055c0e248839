"""A repository of the Hugging Face Hub: lists its files, and gives their URLs.

HF_ENDPOINT and HF_TOKEN (or `hf auth login`) work as in the Hub's own library.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from pipeline.stores.errors import SourceError, StoreError
from pipeline.stores.http_transfer import Resource, get

_ENDPOINT = "https://huggingface.co"
_MAX_LISTING_BYTES = 64 << 20
# hf://[datasets/]owner/name[@revision]/path; revisions with slashes are refs/… or percent-encoded.
_PLACE = re.compile(
    r"hf://(?:(?P<kind>datasets|spaces|models)/)?"
    r"(?P<repository>(?!(?:datasets|spaces|models)/)[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?",
    re.DOTALL,
)
_NEXT = re.compile(r'<([^<>]+)>;\s*rel="next"')


class HfPlace(NamedTuple):
    """A file or folder of a repository. root: the location of the repository itself."""

    root: str
    kind: str  # "datasets", "spaces" or "models"
    repository: str
    revision: str
    path: str


def parse_hf(location: str) -> HfPlace:
    found = _PLACE.fullmatch(location)
    if not found:
        raise SourceError(f"{location!r} names no repository: write hf://datasets/owner/name/path")
    path = found["path"] or ""
    root = location.removesuffix(path).rstrip("/")
    revision = unquote(found["revision"] or "main")
    return HfPlace(root, found["kind"] or "models", found["repository"], revision, path)


def hf_resource(location: str) -> Resource:
    place = parse_hf(location)
    folder = "" if place.kind == "models" else f"{place.kind}/"
    revision = quote(place.revision, safe="")
    url = f"{_endpoint()}/{folder}{place.repository}/resolve/{revision}/{quote(place.path)}"
    return Resource(url, _token_header, "store")


def list_hf(location: str) -> list[tuple[str, int]]:
    """(path in the repository, bytes) of the files below a folder, in byte order of their paths.

    Raises OSError, AccessError; MissingError when the folder does not exist.
    """
    place = parse_hf(location)
    folder = quote(place.path.rstrip("/"))
    url: str | None = (
        f"{_endpoint()}/api/{place.kind}/{place.repository}/tree"
        f"/{quote(place.revision, safe='')}/{folder}?recursive=true"
    )
    files = []
    while url is not None:
        answer = get(Resource(url, _token_header, "store"), max_bytes=_MAX_LISTING_BYTES)
        files += _files_of(answer.data)
        following = _NEXT.search(answer.headers.get("Link", ""))
        url = following[1] if following else None
    return sorted(files, key=lambda file: file[0].encode("utf-8"))


def _files_of(data: bytes) -> list[tuple[str, int]]:
    try:
        return [
            (item["path"], int(item["size"])) for item in json.loads(data) if item["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the Hub's listing has an unknown form: {error!r}") from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", _ENDPOINT).rstrip("/")


def _token_header(method: str, url: str) -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
