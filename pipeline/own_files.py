"""Keeps a run's own files out of its input, where the output folder is among the images.

Only the prefixes of paths are compared, so that this costs nothing for ten million files.
"""

from __future__ import annotations

import os
import re

from pipeline.output import ATTEMPTS, LABELS, PLAN, RUN, SUMMARY, OutputError, OutputFolder
from pipeline.presence import DRIVERS
from pipeline.records import ImageRef
from pipeline.sources import list_images
from pipeline.stores.locations import is_remote, local_path
from pipeline.stores.output_store import STAGING

_MAGIC = re.compile(r"[*?\[{]")
# What a run writes into its output folder; needed where that folder also holds the collection.
_FOLDERS = (f"{LABELS}/part-", f"{STAGING}/", f"{ATTEMPTS}/", f"{DRIVERS}/")
_NAMES = (PLAN, RUN, SUMMARY, *_FOLDERS)


def own_files(location: str, output: OutputFolder) -> tuple[str, ...]:
    """The `excluded_prefixes` for `list_images(location)`.

    They exclude everything below the output; if the output folder holds the collection itself,
    only the files that a run writes there.
    """
    folder, _ = _folder_and_rest(location)
    own = output.location
    if is_remote(folder) != is_remote(own):
        return ()
    rest = _rest_below(own, folder)
    # Either path may go through a symbolic link; listed paths start with `folder`.
    real, real_own = (p if is_remote(p) else os.path.realpath(p) for p in (folder, own))
    if rest == "" or _is_at_or_below(real, real_own):
        tops = {own, folder} if rest == "" else {own}
        return tuple(f"{top}/{name}" for top in sorted(tops) for name in _NAMES)
    found = {f"{own}/"}
    if rest is not None:
        found.add(os.path.join(folder, rest))
    return tuple(sorted(found))


def list_images_outside(location: str, output: OutputFolder) -> list[ImageRef]:
    """`list_images` for a job whose files could have the same names as the collection's.

    Raises OutputError if the output folder holds the collection; SourceError as `list_images`.
    """
    _refuse_mixing(location, output)
    return list(list_images(location, own_files(location, output)))


def _refuse_mixing(location: str, output: OutputFolder) -> None:
    folder, rest = _folder_and_rest(location)
    if is_remote(folder) or _rest_below(output.location, folder) != "":
        return
    if "/" in rest or "**" in rest:
        raise OutputError(
            f"the output folder {output.location!r} is the input's own: choose another --output"
        )


def _folder_and_rest(location: str) -> tuple[str, str]:
    """(folder, pattern) such that the files of a location match the pattern below the folder."""
    if not is_remote(location):
        location = local_path(location)
        if os.path.isdir(location):
            return os.path.abspath(location), "**"
    start = _MAGIC.split(location, maxsplit=1)[0]
    if start != location:
        start = start[: start.rfind("/") + 1]
    rest = location.removeprefix(start)
    return (start.rstrip("/") if is_remote(location) else os.path.abspath(start)), rest


def _rest_below(own: str, folder: str) -> str | None:
    """The output's path below a folder, with a slash at its end; "" for the folder itself.

    None for an output elsewhere. On a disk the folders themselves are compared, not their names: a
    bind mount gives a folder a second path, and so does another case where the disk ignores it.
    """
    if is_remote(own):
        below = _is_at_or_below(own, folder)
        return f"{own}/".removeprefix(os.path.join(folder, "")) if below else None
    path, rest = os.path.realpath(own), ""
    while not _is_one_folder(path, folder):
        above, name = os.path.split(path)
        if above == path:
            return None
        path, rest = above, os.path.join(name, rest)
    return rest


def _is_one_folder(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is still to be made
        return False


def _is_at_or_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(os.path.join(folder, ""))
