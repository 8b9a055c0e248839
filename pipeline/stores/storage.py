"""Read, write and list files by location, on a disk or in a remote store.

A location is an absolute path, or a URI: file://, s3://, gs://, hf:// or https://.
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
from pipeline.stores.errors import SourceError
from pipeline.stores.gs_access import gs_bucket
from pipeline.stores.hf_store import hf_resource, list_hf, parse_hf
from pipeline.stores.http_transfer import MAX_BYTES, Resource, delete, get, put
from pipeline.stores.locations import is_remote, is_web, local_path, scheme_of, without_credentials
from pipeline.stores.remote_file import RemoteFile
from pipeline.stores.s3_access import s3_bucket

_BUFFER_BYTES = 1 << 18
_LOCK = threading.Lock()
_buckets: dict[tuple[str, str], BucketStore] = {}


def read(location: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The whole content of a file. Raises OSError; AccessError when credentials are refused.

    max_bytes: a larger file is not read; TooLargeError is raised for a remote one.
    """
    if is_remote(location):
        return get(_resource(location), max_bytes=max_bytes).data
    with open(local_path(location), "rb", buffering=0, opener=_open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(f"{size} bytes: at most {max_bytes} are read at once")
        return file.read()


def read_range(location: str, start: int, num_bytes: int) -> bytes:
    """`num_bytes` bytes from `start`, fewer at the end of the file. Raises as `read` does."""
    if num_bytes > MAX_BYTES:
        raise OSError(f"{num_bytes} bytes: at most {MAX_BYTES} are read at once")
    if is_remote(location):
        if not num_bytes:
            return b""
        # A server without byte ranges sends the whole file for a range that starts at 0.
        return get(_resource(location), start, start + num_bytes).data[:num_bytes]
    with open(local_path(location), "rb", opener=_open_regular) as file:
        file.seek(start)
        return file.read(num_bytes)


def open_input(location: str) -> BinaryIO:
    """Open a file for reading and seeking. Raises as `read` does; FileNotFoundError if missing."""
    if not is_remote(location):
        return open(local_path(location), "rb", opener=_open_regular)
    return io.BufferedReader(RemoteFile(_resource(location)), _BUFFER_BYTES)


def _open_regular(path: str, flags: int) -> int:
    """An opener for `open` that refuses pipes and devices, which may block for ever.

    For a folder, `open` itself raises IsADirectoryError.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # no effect on a regular file
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def limit_read_ahead(file: BinaryIO, stop: int) -> None:
    """Stop prefetch of an open remote file at a byte; no effect on a local file."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, RemoteFile):
        file.raw.read_ahead_to = stop


def whole_content(file: BinaryIO) -> bytes | None:
    """The content of an open remote file that is in memory already, else None.

    Small files are, and those of a server without byte ranges, of which no range can be read.
    """
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, RemoteFile):
        return file.raw.whole
    return None


def list_objects(location: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(location, bytes) of the files below a remote folder, in the byte order of their paths.

    location: with a final slash. prefix: only files whose path below the folder starts with it.
    Raises OSError, AccessError; SourceError for https://, which has no folders.
    """
    scheme = scheme_of(location)
    if is_web(location):
        raise SourceError(
            f"{without_credentials(location)!r} cannot be listed, since web servers have no"
            " listing: give a manifest of its files"
        )
    if scheme == "hf":
        root = parse_hf(location).root
        found = ((f"{root}/{path}", num_bytes) for path, num_bytes in list_hf(location))
        yield from (item for item in found if item[0].startswith(location + prefix))
        return
    bucket, key = _split(location)
    store = _bucket(scheme, bucket)
    for item in list_bucket(store, key + prefix):
        if not (item.key.endswith("/") and not item.num_bytes):  # a folder's marker object
            yield f"{scheme}://{bucket}/{item.key}", item.num_bytes or 0


def write_object(location: str, data: bytes) -> None:
    """Store an object in a bucket, atomically. Raises as `read` does."""
    put(_resource(location), data)


def remove_object(location: str) -> None:
    """Remove an object from a bucket, if it exists. Raises as `read` does."""
    delete(_resource(location))


def list_changes(location: str) -> Iterator[tuple[str, float]]:
    """(location, modification time) of the objects below a folder of a bucket.

    Times are seconds since the epoch by the store's clock; S3's are whole seconds. Raises as
    `read` does.
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
    with _LOCK:  # a bucket's region and credentials are looked up once
        if (scheme, name) not in _buckets:
            access = s3_bucket if scheme == "s3" else gs_bucket
            _buckets[scheme, name] = BucketStore(*access(name))
        return _buckets[scheme, name]
