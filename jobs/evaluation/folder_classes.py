"""The true class of an image, by the name of its folder: a WordNet id or a class name."""

from __future__ import annotations

import string
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UNKNOWN = -1
_LEFT_OUT = str.maketrans("", "", string.punctuation + string.whitespace)


class FolderClasses:
    """Maps folder names to a classifier's classes.

    class_ids: one per class (n01440764), or None. class_names: one per class, synonyms separated
    by commas, or None. Case, white space and punctuation are ignored. A name that fits two classes,
    or that consists of ignored characters alone, maps to none.
    """

    def __init__(self, class_ids: Sequence[str] | None, class_names: Sequence[str] | None) -> None:
        found: dict[str, set[int]] = defaultdict(set)
        for index, text in enumerate(class_names or ()):
            for synonym in (text, *text.split(",")):
                found[_plain(synonym)].add(index)
        self._index_of = {name: min(at) for name, at in found.items() if len(at) == 1}
        self._index_of |= {_plain(name): index for index, name in enumerate(class_ids or ())}
        self._index_of.pop("", None)  # an image outside any folder has no class

    def of(self, name: str) -> int:
        """The class index of an image, by its path in the collection; `UNKNOWN` without one."""
        return self._index_of.get(_plain(PurePosixPath(name).parent.name), UNKNOWN)


def _plain(text: str) -> str:
    """The name for comparison, in any script; NFC, since file systems compose accents or not."""
    return unicodedata.normalize("NFC", text).casefold().translate(_LEFT_OUT)
