"""The base of every settings class: a value that its field's type does not allow is refused.

Else a misspelt word would be taken for one of the others.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import PurePath
from reprlib import Repr
from typing import Any

from pipeline.error_text import one_line

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


@dataclass(frozen=True, kw_only=True)
class CheckedSettings:
    """Settings whose values have the types of their fields.

    A path becomes text. A list, or one value where there may be several, becomes a tuple.
    """

    @typing.final  # a class that had its own could leave out this one
    def __post_init__(self) -> None:
        settings_class: Any = type(self)
        hints = _hints(settings_class)
        for found in fields(self):
            value = checked(found, hints[found.name], getattr(self, found.name))
            object.__setattr__(self, found.name, value)
        self.check_values()

    def check_values(self) -> None:
        """Raise ValueError for numbers out of range and for settings that exclude each other."""


@cache
def _hints(settings_class: Any) -> dict[str, Any]:
    return typing.get_type_hints(settings_class)


def checked(setting: Field[Any], hint: Any, value: Any) -> Any:
    """The value, converted as `CheckedSettings` says. Raises ValueError if it is not allowed."""
    if typing.get_origin(hint) is tuple:
        one = typing.get_args(hint)[0]
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(checked(setting, one, part) for part in several)
    if isinstance(value, PurePath):
        value = str(value)
    if value is None or (isinstance(value, str) and not value):
        raise ValueError(is_empty(setting))
    if not _allows(hint, value):
        # The start of a list of a thousand files says enough.
        shown = repr(value) if isinstance(value, str) else one_line(Repr().repr(value))
        way_out = nearest(str(value), choices_of(hint))
        if str in kinds_of(hint) and isinstance(value, int | float):  # as 20261129 in a file
            way_out = ": put it in quotes"
        raise ValueError(f"{given(setting)} {shown} is not {described(hint)}{way_out}")
    return value


def _allows(hint: Any, value: Any) -> bool:
    if is_union(hint):
        return any(_allows(part, value) for part in typing.get_args(hint))
    if is_choice(hint):
        return isinstance(value, str) and value in typing.get_args(hint)
    if isinstance(value, bool):  # which Python counts as a whole number
        return hint is bool
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def positional_settings(settings_class: type) -> tuple[str, ...]:
    """The names of the settings that are given by position, in their order."""
    return tuple(found.name for found in fields(settings_class) if found.metadata["positional"])


def flag_of(name: str) -> str:
    """images_per_shard -> --images-per-shard."""
    return "--" + name.replace("_", "-")


def given(setting: Field[Any]) -> str:
    """A setting as the user of a command writes it: INPUT or --output."""
    return setting.name.upper() if setting.metadata["positional"] else flag_of(setting.name)


def is_empty(setting: Field[Any]) -> str:
    """The message about a setting without a value."""
    way_out = "" if setting.default is MISSING else ", or leave it out"
    return f"{given(setting)} is empty: give it a value{way_out}"


def nearest(value: str, known: Sequence[str]) -> str:
    """ " (did you mean X?)", or nothing when no known word is similar."""
    near = difflib.get_close_matches(value, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def is_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types of a setting's values."""
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint) if is_union(hint) else (hint,)


def choices_of(hint: Any) -> list[str]:
    """The words that a type, or each of its several values, allows."""
    words = [typing.get_args(kind) for kind in kinds_of(hint) if is_choice(kind)]
    return [str(word) for choices in words for word in choices]


def described(hint: Any) -> str:
    """What a type, or each of its several values, allows, in words."""
    parts = [_KINDS[kind] for kind in kinds_of(hint) if kind in _KINDS] + choices_of(hint)
    return "one of: " + ", ".join(parts) if len(parts) > 1 else "".join(parts) or "valid"
