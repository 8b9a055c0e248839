"""A collection of images -> references in a stable order.

This module alone decides what kind of input a location is: a folder (recursive), a glob, a brace
pattern, a tar, a Parquet file of images, a manifest of any of these, or a single image, on a disk
or on s3://, gs://, hf://, https://. To add a kind of archive, add it to `_images_in`, its extension
to `ARCHIVE_SUFFIXES`, and its reader to `pipeline.inputs.image_bytes`.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import pyarrow.parquet as pq

from pipeline.file_format import sniff_format
from pipeline.inputs.local_files import list_folder
from pipeline.inputs.manifests import ARCHIVE_SUFFIXES, PARQUET_MAGIC
from pipeline.inputs.parquet_source import image_column, list_parquet
from pipeline.inputs.places import (
    Place,
    expand_pattern,
    list_entries,
    list_remote_folder,
    listing_errors,
    place_of,
)
from pipeline.inputs.tar_source import container_of, list_tar
from pipeline.records import ImageRef
from pipeline.stores.errors import MissingError, SourceError
from pipeline.stores.locations import has_braces, is_remote, is_web, local_path, refuse_credentials
from pipeline.stores.storage import open_input

_SNIFF_BYTES = 512  # enough for tar's magic number at byte 257
_ENCRYPTED_PARQUET = b"PARE"
_COMPRESSED = ("zip", "7z", "gzip", "bzip2", "xz", "zstd")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Not `{a,b}.tar`, `[0-9].jpg` or `[[]a]*.jpg`.
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*"|\[\s*(?:"|[\[{]\s*"))')
_LISTINGS_AHEAD = 16  # remote archives that are listed at the same time


def list_images(location: str, excluded_prefixes: tuple[str, ...] = ()) -> Iterator[ImageRef]:
    """Every image of a collection, in a stable order.

    location: a folder, a glob or brace pattern, an archive, a manifest or one image file.
    excluded_prefixes: folders and patterns leave out files whose paths start with one of these,
    see `pipeline.own_files`.
    Folders are listed in the byte order of their paths, archives and manifests in their own order.
    Every regular file of a folder is listed, whatever its name: one that is not an image gets a
    row that says so. Raises SourceError when the collection is empty or cannot be listed in full.
    """
    refuse_credentials(location)
    listed = False
    for ref in _list(location, excluded_prefixes):
        listed = True
        yield ref
    if not listed:
        raise SourceError(
            f"no files in {location!r}: give a folder, glob, manifest or archive of images"
        )


def _list(location: str, excluded_prefixes: tuple[str, ...]) -> Iterator[ImageRef]:
    if is_remote(location):
        yield from _list_remote(location, excluded_prefixes)
        return
    path = os.path.abspath(local_path(location))
    if os.path.isdir(path):
        yield from _expand(map(place_of, list_folder(path)), excluded_prefixes)
    elif file := _open_if_there(place_of(path)):
        yield from _list_file(file, place_of(path))
    elif has_braces(location) or glob.has_magic(location):
        yield from _expand(expand_pattern(local_path(location)), excluded_prefixes)
    else:
        raise SourceError(f"no such file or folder: {location!r}")


def _list_remote(location: str, excluded_prefixes: tuple[str, ...]) -> Iterator[ImageRef]:
    is_pattern = has_braces(location) or (glob.has_magic(location) and not is_web(location))
    is_folder = location.endswith("/") or "/" not in location.partition("://")[2]
    if is_pattern:
        yield from _expand(expand_pattern(location), excluded_prefixes)
    elif not is_folder and (file := _open_if_there(place_of(location))):
        yield from _list_file(file, place_of(location))
    elif is_web(location) and not is_folder:
        raise SourceError(f"no such file: {location!r}")
    else:
        yield from _expand(list_remote_folder(location.rstrip("/") + "/"), excluded_prefixes)


# Archives among files


def _expand(places: Iterable[Place], excluded_prefixes: tuple[str, ...] = ()) -> Iterator[ImageRef]:
    """The images in the archives, and all other files, in the order of the places.

    Remote archives are listed in parallel, ahead of their turn.
    """
    stopped = threading.Event()
    ahead: deque[Iterable[ImageRef] | Future[list[ImageRef]]] = deque()
    with ThreadPoolExecutor(_LISTINGS_AHEAD, thread_name_prefix="list") as pool:
        try:
            for place in places:
                if place.location.startswith(excluded_prefixes):
                    continue
                if not place.name.lower().endswith(ARCHIVE_SUFFIXES):
                    if not ahead:
                        yield place.as_image()
                        continue
                    ahead.append((place.as_image(),))
                elif is_remote(place.location):
                    ahead.append(pool.submit(_list_whole, place, stopped))
                else:
                    ahead.append(_list_archive(place))
                while ahead and (len(ahead) > _LISTINGS_AHEAD or not isinstance(ahead[0], Future)):
                    yield from _listed(ahead.popleft())
            while ahead:
                yield from _listed(ahead.popleft())
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _listed(listing: Iterable[ImageRef] | Future[list[ImageRef]]) -> Iterable[ImageRef]:
    return listing.result() if isinstance(listing, Future) else listing


def _list_whole(place: Place, stopped: threading.Event) -> list[ImageRef]:
    return list(itertools.takewhile(lambda _: not stopped.is_set(), _list_archive(place)))


def _list_archive(place: Place) -> Iterator[ImageRef]:
    """The images in a file with an archive's name; the file itself if it is not an archive."""
    file = _open_if_there(place)
    if file is None:
        yield place.as_image()  # gets a row that says that it is missing
        return
    with file:
        images = _images_in(file, _head(file, place), place)
        yield from (place.as_image(),) if images is None else images


def _list_file(file: BinaryIO, place: Place) -> Iterator[ImageRef]:
    """The images of a file that the user gave as the input; its content decides what it is."""
    with file:
        head = _head(file, place)
        images = _images_in(file, head, place)
        if images is not None:
            yield from images
        elif (compression := sniff_format(head)) in _COMPRESSED:
            raise SourceError(
                f"{place.uri!r} is compressed ({compression}): unpack it first, or put its"
                " files into a tar"
            )
        elif head.startswith(_UTF_16):
            raise SourceError(f"{place.uri!r} is text in UTF-16: save it as UTF-8")
        elif _JSON.match(head):
            raise SourceError(
                f"{place.uri!r} is JSON: give its paths as text with one per line, as CSV with a"
                " header, or as Parquet"
            )
        elif _is_text_with_nulls(head):
            raise SourceError(
                f"{place.uri!r} is text with null bytes: save it as UTF-8, with one entry per line"
                " (`find -print0` and xargs separate them otherwise)"
            )
        elif _is_one_image(head, place.name):
            yield place.as_image()
        else:
            yield from _expand(list_entries(file, place))


def _is_one_image(head: bytes, name: str) -> bool:
    if head.startswith(PARQUET_MAGIC):
        return False
    return b"\0" in head or head[:2] == b"\xff\xd8" or name.lower().endswith((".jpg", ".jpeg"))


def _is_text_with_nulls(head: bytes) -> bool:
    """Whether a file of no known format is text with null bytes, between entries or in UTF-16."""
    if b"\0" not in head or sniff_format(head) is not None:
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\0\t\r\n" for character in text)


def _images_in(file: BinaryIO, head: bytes, place: Place) -> Iterator[ImageRef] | None:
    """The images of an archive, which starts with `head`.

    None if the file is not an archive; it is at its start then.
    """
    with listing_errors(f"read {place.uri!r}"):
        if head.startswith(_ENCRYPTED_PARQUET) and _ends_with(file, _ENCRYPTED_PARQUET):
            raise OSError("it is encrypted: give it as unencrypted Parquet")
        if head.startswith(PARQUET_MAGIC):
            parquet = pq.ParquetFile(file)
            if image_column(parquet.schema_arrow) is None:
                file.seek(0)  # it may be a manifest
                return None
            refs = list_parquet(parquet, place.uri, place.source)
            return _with_listing_errors(f"list {place.uri!r}", refs)
        container = container_of(place.name, head)
        if container is None:
            return None
        refs = list_tar(file, place.uri, place.source, container)
    return _with_listing_errors(f"list the tar {place.uri!r}", refs)


def _with_listing_errors(what: str, refs: Iterator[ImageRef]) -> Iterator[ImageRef]:
    with listing_errors(what):
        yield from refs


def _open_if_there(place: Place) -> BinaryIO | None:
    with listing_errors(f"read {place.uri!r}"):
        try:
            if is_remote(place.location) or os.path.isfile(place.location):
                return open_input(place.location)
        except (FileNotFoundError, MissingError):
            return None
    return None


def _head(file: BinaryIO, place: Place) -> bytes:
    """The file's first bytes; leaves the file at its start."""
    with listing_errors(f"read {place.uri!r}"):
        head = file.read(_SNIFF_BYTES)
        file.seek(0)
        return head


def _ends_with(file: BinaryIO, mark: bytes) -> bool:
    """Whether a file ends with these bytes; leaves the file at its start."""
    file.seek(-len(mark), os.SEEK_END)
    tail = file.read()
    file.seek(0)
    return tail == mark
