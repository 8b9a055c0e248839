"""Finds the clean original of a compressed image, by its path in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from pipeline.inputs.image_names import relative_name
from pipeline.records import ImageRef


class CleanTwins:
    """Finds clean originals.

    location: a folder with the same subfolders as the compressed images, or one file.
    Raises ValueError when it does not exist.
    """

    def __init__(self, location: str) -> None:
        self._location = Path(os.path.abspath(location))
        self.is_folder = self._location.is_dir()
        if not self.is_folder and not self._location.is_file():
            raise ValueError(f"--clean {location!r}: no such file or folder")

    def of(self, ref: ImageRef) -> ImageRef:
        """The original of an image.

        q10/n01440764/x.jpg is searched as q10/n01440764/x.jpg, n01440764/x.jpg and x.jpg below the
        folder; each time first under this name, then with another extension (x.png), or without the
        .jpg that `afd compress` adds (x.png for x.png.jpg).
        Raises ValueError when there is none, or several that differ only in their extension.
        """
        if not self.is_folder:
            return ImageRef(uri=str(self._location))
        parts = PurePath(relative_name(ref, "")).parts
        for start in range(len(parts)):
            place = self._location.joinpath(*parts[start:])
            found = [path for path in _candidates(place) if not _is_itself(path, ref)]
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise ValueError(f"several clean twins in {str(place.parent)!r}: {names}")
            if found:
                return ImageRef(uri=str(found[0]))
        raise ValueError(f"no clean twin in {str(self._location)!r}: no file with its name")


def _candidates(place: Path) -> Iterator[Path]:
    """The file itself; if it does not exist, files that differ only in their extension."""
    if place.is_file():
        yield place
    elif place.parent.is_dir():
        for path in sorted(place.parent.iterdir()):
            if place.stem in (path.name, path.stem) and path.is_file():
                yield path


def _is_itself(path: Path, ref: ImageRef) -> bool:
    """Whether a path is the image itself, which cannot be its own original."""
    return ref.source is None and os.path.realpath(path) == os.path.realpath(ref.uri)
