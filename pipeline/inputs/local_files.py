"""Lists the files below a mounted folder, or those that match a glob, in a stable order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.stores.errors import SourceError
from pipeline.stores.locations import leading_alternatives


def absolute_pattern(pattern: str) -> str:
    """A path or pattern made absolute; a URI stays as it is.

    If one of the alternatives at the start of a pattern is absolute (`{/a/x,b/y}.tar`), each
    alternative is made absolute.
    """
    if "://" in pattern:
        return pattern
    alternatives = leading_alternatives(pattern)
    if not any(alternative.startswith("/") for alternative in alternatives):
        return os.path.abspath(pattern)
    rest = pattern[len(",".join(alternatives)) + 2 :]
    return f"{{{','.join(os.path.join(os.getcwd(), one) for one in alternatives)}}}{rest}"


def list_folder(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every regular file below a folder, in the byte order of their whole paths.

    Symbolic links are followed, except those to a parent folder. A broken link is listed, so that
    it gets a row with an error.
    """
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    try:
        with os.scandir(folder) as entries:
            # With a final slash, folders sort as in an object store: by whole paths.
            found = sorted(
                (os.fsencode(e.name) + (b"/" if _is_folder(e) else b""), e.path, _is_folder(e))
                for e in entries
                if e.is_symlink() or e.is_dir() or e.is_file()
            )
    except OSError as error:
        raise SourceError(f"cannot list {folder!r}: {error.strerror}") from error
    for _, path, is_folder in found:
        if is_folder:
            yield from list_folder(path, ancestors | {real})
        else:
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself: listed as a file
        return False


def list_glob(pattern: str) -> Iterator[str]:
    """The files that match a glob, in byte order; `**` matches any number of folders."""
    top, *parts = (
        Path(pattern).parts if os.path.isabs(pattern) else (os.getcwd(), *Path(pattern).parts)
    )
    found = {os.path.abspath(path) for path in _matches(top, parts)}  # two `**` find a file twice
    for path in sorted(found, key=os.fsencode):
        if not os.path.isdir(path):
            yield path


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    """The paths below a folder that match a pattern's parts.

    `glob`'s own `**` would follow a symbolic link to a parent forty times, and two of them for
    ever.
    """
    if not parts:
        yield folder
    elif parts[0] == "**":
        for below in _folders_below(folder):
            yield from _matches(below, parts[1:] or ["*"])
    else:
        pattern = os.path.join(glob.escape(folder), parts[0])
        for path in glob.iglob(pattern, include_hidden=True):
            yield from _matches(path, parts[1:])


def _folders_below(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in ancestors or not os.path.isdir(folder):
        return
    yield folder
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _is_folder(entry)]
    except OSError as error:
        raise SourceError(f"cannot list {folder!r}: {error.strerror}") from error
    for path in found:
        yield from _folders_below(path, ancestors | {real})
