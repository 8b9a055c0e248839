"""Files wherever they are: opened, read whole or in part, listed. Paths never pass through HTTP.

A location is an absolute path, a file:// URI, or s3://, gs://, hf:// or https:// as it opens.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO

from pipeline.stores.bucket_listing import list_bucket
from pipeline.stores.bucket_store import BucketStore, check_bucket_name
from pipeline.stores.connections import basic_authorization
from pipeline.stores.gs_access import gs_bucket
from pipeline.stores.hf_store import hf_resource, list_hf, parse_hf
from pipeline.stores.http_transfer import MOST_BYTES, Resource, delete, get, put
from pipeline.stores.locations import (
    SourceError,
    is_remote,
    is_web,
    local_path,
    recorded,
    scheme_of,
)
from pipeline.stores.remote_file import RemoteFile
from pipeline.stores.s3_access import s3_bucket

_BUFFER_BYTES = 1 << 18
_LOCK = threading.Lock()
_buckets: dict[tuple[str, str], BucketStore] = {}


def read(location: str) -> bytes:
    """The whole content of a file. Raises OSError; AccessError where credentials are refused."""
    if is_remote(location):
        return get(_resource(location)).data
    with open(local_path(location), "rb", buffering=0, opener=_open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise OSError(f"{size} bytes: at most {MOST_BYTES} are read at once")
        return file.read()


def read_range(location: str, start: int, num_bytes: int) -> bytes:
    """The bytes from `start` on, fewer where the file ends. Raises as `read` does."""
    if num_bytes > MOST_BYTES:
        raise OSError(f"{num_bytes} bytes: at most {MOST_BYTES} are read at once")
    if is_remote(location):
        if not num_bytes:
            return b""
        # A server that knows no ranges answers one from the start with the whole file.
        return get(_resource(location), start, start + num_bytes).data[:num_bytes]
    with open(local_path(location), "rb", opener=_open_regular) as file:
        file.seek(start)
        return file.read(num_bytes)


def open_input(location: str) -> BinaryIO:
    """A file to read and to seek in. Raises as `read` does, MissingError or FileNotFoundError."""
    if not is_remote(location):
        return open(local_path(location), "rb", opener=_open_regular)
    return io.BufferedReader(RemoteFile(_resource(location)), _BUFFER_BYTES)


def _open_regular(path: str, flags: int) -> int:
    """Opens a file, but no pipe and no device: reading those may never end, nor may opening them.

    A folder is left to `open`, which says what it is.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # without effect on a file
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def limit_read_ahead(file: BinaryIO, stop: int) -> None:
    """Say up to which byte an opened file will be read, so that no more is fetched ahead."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, RemoteFile):
        file.raw.read_ahead_to = stop


def list_objects(location: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(location, bytes) of the files below a remote folder, in the byte order of their paths.

    location: ends with a slash. prefix: what the rest of a location begins with.
    Raises OSError, AccessError, and SourceError for a scheme that has no folders.
    """
    scheme = scheme_of(location)
    if is_web(location):
        raise SourceError(
            f"{recorded(location)!r} cannot be listed, as no web server can: give a manifest of"
            " its files"
        )
    if scheme == "hf":
        root = parse_hf(location).root
        found = ((f"{root}/{path}", num_bytes) for path, num_bytes in list_hf(location))
        yield from (item for item in found if item[0].startswith(location + prefix))
        return
    bucket, key = _split(location)
    store = _bucket(scheme, bucket)
    for item in list_bucket(store, key + prefix):
        if not (item.key.endswith("/") and not item.num_bytes):  # a marker of a folder
            yield f"{scheme}://{bucket}/{item.key}", item.num_bytes or 0


def write_object(location: str, data: bytes) -> None:
    """Store an object of a bucket, whole or not at all. Raises as `read`."""
    put(_resource(location), data)


def remove_object(location: str) -> None:
    """Remove an object of a bucket, if it is there. Raises as `read`."""
    delete(_resource(location))


def list_changes(location: str) -> Iterator[tuple[str, float]]:
    """(location, when it was stored) of the objects below a folder of a bucket.

    When: seconds since the epoch, by the store's clock; S3's has whole seconds. Raises as `read`.
    """
    scheme = scheme_of(location)
    bucket, key = _split(location)
    for page in _bucket(scheme, bucket).pages(key):
        for item in page:
            stored_at = datetime.fromisoformat(item.modified).timestamp()
            yield f"{scheme}://{bucket}/{item.key}", stored_at


def _resource(location: str) -> Resource:
    scheme = scheme_of(location)
    if scheme == "hf":
        return hf_resource(location)
    if scheme in ("s3", "gs"):
        bucket, key = _split(location)
        return _bucket(scheme, bucket).resource(key)
    return Resource(location, lambda method, url: basic_authorization(location), "web")


def _split(location: str) -> tuple[str, str]:
    """(bucket, key)"""
    bucket, _, key = location.partition("://")[2].partition("/")
    check_bucket_name(bucket, location)
    return bucket, key


def _bucket(scheme: str, name: str) -> BucketStore:
    with _LOCK:  # what it takes to reach a bucket is found out once
        if (scheme, name) not in _buckets:
            reach = s3_bucket if scheme == "s3" else gs_bucket
            _buckets[scheme, name] = BucketStore(*reach(name))
        return _buckets[scheme, name]
