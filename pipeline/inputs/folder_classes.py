"""What class an image is of, by the name of its folder: a WordNet id, or a class's name."""

from __future__ import annotations

import string
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UNKNOWN = -1
_LEFT_OUT = str.maketrans("", "", string.punctuation + string.whitespace)


class FolderClasses:
    """Looks folders up among a classifier's classes.

    class_ids: one a class (n01440764), or None. class_names: one a class, synonyms after commas,
    or None. Names are compared without regard to case, spaces, - and _; one that stands for two
    classes stands for neither, and one of nothing else for none.
    """

    def __init__(self, class_ids: Sequence[str] | None, class_names: Sequence[str] | None) -> None:
        found: dict[str, set[int]] = defaultdict(set)
        for index, text in enumerate(class_names or ()):
            for synonym in (text, *text.split(",")):
                found[_plain(synonym)].add(index)
        self._index_of = {name: min(at) for name, at in found.items() if len(at) == 1}
        self._index_of |= {_plain(name): index for index, name in enumerate(class_ids or ())}
        self._index_of.pop("", None)  # an image in no folder is of no class

    def of(self, name: str) -> int:
        """The class of an image by its name in the collection; `UNKNOWN` where it has none."""
        return self._index_of.get(_plain(PurePosixPath(name).parent.name), UNKNOWN)


def _plain(text: str) -> str:
    """In any script; composed and decomposed accents are one, for file systems differ in them."""
    return unicodedata.normalize("NFC", text).casefold().translate(_LEFT_OUT)
