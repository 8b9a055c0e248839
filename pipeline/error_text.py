"""What an error says, on one line: for a row's column, a file or a terminal."""

from __future__ import annotations


def one_line(error: BaseException | str) -> str:
    """The text without line breaks and indents; spaces within a line stay: a path may have two."""
    return " ".join(part for line in str(error).splitlines() if (part := line.strip()))


def reason_of(error: BaseException) -> str:
    """As `one_line`; of an error of the system its words alone: "No space left on device"."""
    return getattr(error, "strerror", None) or one_line(error)


def named(error: BaseException) -> str:
    """As `one_line`, behind the error's type: "ValueError: ..."."""
    return f"{type(error).__name__}: {one_line(error)}"
