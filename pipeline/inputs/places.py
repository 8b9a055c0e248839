"""Folders, patterns and manifests -> the files of a collection, in a stable order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from pipeline.error_text import reason_of
from pipeline.inputs.local_files import list_folder, list_glob
from pipeline.inputs.manifest_entries import entry_location
from pipeline.inputs.manifests import list_manifest
from pipeline.inputs.tar_source import TAR_ERRORS
from pipeline.records import ImageRef
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.locations import (
    expand_braces,
    folder_of,
    glob_regex,
    has_braces,
    has_credentials,
    is_remote,
    is_web,
    literal_prefix,
    refuse_credentials,
    resolve_entry,
    uri_of,
    without_credentials,
    without_query,
)
from pipeline.stores.storage import list_objects

# Entries that may be a pattern or a folder, or hold credentials. Most of ten million entries are
# none of these, and this one search is all that they cost.
_MORE_THAN_A_NAME = re.compile(r"[*{@?]|/$")


class Place(NamedTuple):
    """A file of a collection.

    location: opens it now; may hold credentials. uri: its name in the output. source: opens it
    later; written to the plan, so without credentials (see `manifest_entries.entry_location`).
    """

    location: str
    uri: str
    source: str
    num_bytes: int | None = None

    @property
    def name(self) -> str:
        return without_query(self.location)

    def as_image(self) -> ImageRef:
        source = None if self.source == self.uri else self.source
        return ImageRef(self.uri, source, num_bytes=self.num_bytes)


def place_of(location: str, num_bytes: int | None = None) -> Place:
    uri = location if is_remote(location) else uri_of(location)
    return Place(location, uri, uri, num_bytes)


def expand_pattern(pattern: str) -> Iterator[Place]:
    """The files that match a glob or brace pattern; without a glob, a file need not exist."""
    for part in expand_braces(pattern):
        if is_remote(part):
            yield from _expand_remote_pattern(part)
        elif glob.has_magic(part):
            yield from map(place_of, list_glob(part))
        elif os.path.isdir(part):
            yield from map(place_of, list_folder(os.path.abspath(part)))
        else:
            yield place_of(os.path.abspath(part))


def _expand_remote_pattern(pattern: str) -> Iterator[Place]:
    if pattern.endswith("/"):
        yield from list_remote_folder(pattern)
    elif glob.has_magic(pattern) and not is_web(pattern):
        start, wanted = literal_prefix(pattern), glob_regex(pattern)
        folder = start.rpartition("/")[0] + "/"
        found = list_remote_folder(folder, start.removeprefix(folder))
        yield from (place for place in found if wanted.fullmatch(place.location))
    else:
        yield place_of(pattern)


def list_remote_folder(location: str, prefix: str = "") -> Iterator[Place]:
    """The files below a remote folder whose paths below it start with a prefix."""
    with listing_errors(f"list {location!r}"):
        yield from (place_of(*found) for found in list_objects(location, prefix))


@contextmanager
def listing_errors(what: str) -> Iterator[None]:
    """Raise whatever goes wrong inside as a SourceError: "cannot {what}: {reason}"."""
    try:
        yield
    except (*TAR_ERRORS, pa.ArrowException, AccessError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot {what}: {reason_of(error)}") from error


def list_entries(file: BinaryIO, place: Place) -> Iterator[Place]:
    """The files that the entries of a manifest name; whether they exist shows when they are read.

    Relative entries are relative to the manifest. A pattern that matches nothing is listed itself,
    so that it gets a row that says so.
    """
    folder = folder_of(place.location)
    for number, entry in enumerate(list_manifest(file, place.uri)):
        if not entry:
            continue
        location = resolve_entry(folder, entry)
        if not location.isascii() and is_remote(location):
            _refuse_other_encodings(location, f"entry {number + 1} of the manifest {place.uri!r}")
        if not _MORE_THAN_A_NAME.search(entry):
            yield place_of(location)
        elif has_credentials(location) and is_web(location):
            yield Place(
                location, without_credentials(location), entry_location(place.source, number)
            )
        elif _is_single_file(location):
            yield place_of(location)
        else:
            refuse_credentials(location)
            found = False
            for match in expand_pattern(location):
                found = True
                yield match
            if not found:
                yield place_of(location)


def _refuse_other_encodings(location: str, what: str) -> None:
    """A local file's name may be any bytes; that of a remote one is UTF-8."""
    try:
        location.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{what} is not UTF-8: {os.fsencode(location)[:80]!r}; save the manifest as UTF-8"
        ) from error


def _is_single_file(location: str) -> bool:
    """Whether an entry of a manifest names one file, rather than a pattern or a folder."""
    if not (location.endswith("/") or "*" in location or has_braces(location)):
        return not has_credentials(location)
    return not is_remote(location) and os.path.isfile(location)
