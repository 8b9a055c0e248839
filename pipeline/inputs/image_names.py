"""The names of images within their collection, from their paths and URIs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from pipeline.records import ImageRef
from pipeline.stores.locations import is_remote, local_path, uri_of


def relative_name(ref: ImageRef, root: str) -> str:
    """An image's path within its collection, with slashes.

    For a member of a tar, its name there; for a file, its path below `root`, see `collection_root`.
    Parts that would lead out of a folder, such as "..", are removed. A name that is not UTF-8 is
    percent-encoded; a null byte is "_".
    """
    if ref.source is not None:
        name = ref.uri.removeprefix(f"{ref.source}#")
    else:
        path = local_path(ref.uri)
        name = uri_of(os.path.relpath(path, root) if root else path).removeprefix("file://")
    name = name.replace("\0", "_")  # no file can have one in its name
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return "/".join(parts)


def distinct(paths: Iterable[str]) -> Iterator[str]:
    """The paths in their order, made unique: duplicates get -2, -3, ... before the extension.

    Duplicates come from tars with members of the same name, and from names that differ in case
    alone: on exFAT, NTFS or SMB they are one file. The result depends on the paths and their order
    alone, not on the disk.
    """
    taken: dict[str, int] = {}  # path, in one case -> the last number that was tried
    for path in paths:
        stem, extension = os.path.splitext(path)
        own, first = path, path.casefold()
        while own.casefold() in taken:
            taken[first] += 1
            own = f"{stem}-{taken[first]}{extension}"
        taken[own.casefold()] = 1
        yield own


def collection_root(location: str, refs: Sequence[ImageRef]) -> str:
    """The folder that names in the collection are relative to.

    This is `location`, if all files are below it: so that a collection of one class keeps the
    class's folder in its names. Otherwise, as for a manifest or a pattern, it is `common_root`.
    """
    folder = location if is_remote(location) else os.path.abspath(local_path(location))
    files = [local_path(ref.uri) for ref in refs if ref.source is None]
    below = files and all(path.startswith(f"{folder.rstrip('/')}/") for path in files)
    return folder if below else common_root(refs)


def common_root(refs: Sequence[ImageRef]) -> str:
    """The deepest folder that contains all files among the references; "" if there is none."""
    folders = {os.path.dirname(local_path(ref.uri)) for ref in refs if ref.source is None}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # remote files among local ones
        return ""
