"""Error messages on one line: for a row's column, a file or a terminal."""

from __future__ import annotations

import re

# What moves the cursor of a terminal, colours or retitles it, or changes the order of the text;
# tabs and line breaks stay.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""The text for a terminal: control characters, as a file's name may hold, become `\u001b`."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(error: BaseException | str) -> str:
    """The message without line breaks and indentation; spaces within a line, as in paths, stay."""
    return " ".join(part for line in str(error).splitlines() if (part := line.strip()))


def reason_of(error: BaseException) -> str:
    """As `one_line`; of a system error, only its description: "No space left on device"."""
    return getattr(error, "strerror", None) or one_line(error)


def named(error: BaseException) -> str:
    """As `one_line`, with the error's type in front: "ValueError: ..."."""
    return f"{type(error).__name__}: {one_line(error)}"
