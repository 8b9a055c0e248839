"""What folders, patterns and manifests stand for: the files of a collection, in a stable order."""

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
from pipeline.inputs.manifests import entry_location, list_manifest
from pipeline.inputs.tar_source import DAMAGE
from pipeline.records import ImageRef
from pipeline.stores.attempts import AccessError
from pipeline.stores.locations import (
    SourceError,
    expand_braces,
    fixed_start,
    folder_of,
    glob_regex,
    has_braces,
    has_credentials,
    is_remote,
    is_web,
    joined,
    name_of,
    recorded,
    refuse_credentials,
    uri_of,
)
from pipeline.stores.storage import list_objects

# What may be a pattern, a folder or hold credentials; of ten million entries most are none.
_MORE_THAN_A_NAME = re.compile(r"[*{@?]|/$")


class Place(NamedTuple):
    """A file of a collection.

    location: what opens it now, perhaps with credentials. uri: what is recorded for it. source:
    what is recorded to open it again.
    """

    location: str
    uri: str
    source: str
    num_bytes: int | None = None

    @property
    def name(self) -> str:
        return name_of(self.location)

    def as_image(self) -> ImageRef:
        source = None if self.source == self.uri else self.source
        return ImageRef(self.uri, source, num_bytes=self.num_bytes)


def place_of(location: str, num_bytes: int | None = None) -> Place:
    uri = location if is_remote(location) else uri_of(location)
    return Place(location, uri, uri, num_bytes)


def matches(pattern: str) -> Iterator[Place]:
    """The files that a pattern stands for; what is written out need not exist."""
    for part in expand_braces(pattern):
        if is_remote(part):
            yield from _remote_matches(part)
        elif glob.has_magic(part):
            yield from map(place_of, list_glob(part))
        elif os.path.isdir(part):
            yield from map(place_of, list_folder(os.path.abspath(part)))
        else:
            yield place_of(os.path.abspath(part))


def _remote_matches(pattern: str) -> Iterator[Place]:
    if pattern.endswith("/"):
        yield from remote_folder(pattern)
    elif glob.has_magic(pattern) and not is_web(pattern):
        start, wanted = fixed_start(pattern), glob_regex(pattern)
        folder = start.rpartition("/")[0] + "/"
        found = remote_folder(folder, start.removeprefix(folder))
        yield from (place for place in found if wanted.fullmatch(place.location))
    else:
        yield place_of(pattern)


def remote_folder(location: str, prefix: str = "") -> Iterator[Place]:
    """The files below a remote folder whose names begin with a prefix."""
    with refusal(f"list {location!r}"):
        yield from (place_of(*found) for found in list_objects(location, prefix))


@contextmanager
def refusal(what: str) -> Iterator[None]:
    """What cannot be listed is refused in one line, whatever is wrong with it."""
    try:
        yield
    except (*DAMAGE, pa.ArrowException, AccessError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot {what}: {reason_of(error)}") from error


def list_entries(file: BinaryIO, place: Place) -> Iterator[Place]:
    """What the entries of a manifest stand for; a missing file shows when it is read.

    Relative entries are relative to the manifest. An entry that stands for nothing is listed
    itself: its row will say so.
    """
    folder = folder_of(place.location)
    for number, entry in enumerate(list_manifest(file, place.uri)):
        if not entry:
            continue
        location = joined(folder, entry)
        if not _MORE_THAN_A_NAME.search(entry):
            yield place_of(location)
        elif has_credentials(location) and is_web(location):
            yield Place(location, recorded(location), entry_location(place.source, number))
        elif _is_plain(location):
            yield place_of(location)
        else:
            refuse_credentials(location)
            found = False
            for match in matches(location):
                found = True
                yield match
            if not found:
                yield place_of(location)


def _is_plain(location: str) -> bool:
    """Whether an entry of a manifest names one file, rather than a pattern or a folder."""
    if not (location.endswith("/") or "*" in location or has_braces(location)):
        return not has_credentials(location)
    return not is_remote(location) and os.path.isfile(location)
