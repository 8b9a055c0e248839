"""Error messages on one line: for a row's column, a file or a terminal."""

from __future__ import annotations


def one_line(error: BaseException | str) -> str:
    """The message without line breaks and indentation; spaces within a line, as in paths, stay."""
    return " ".join(part for line in str(error).splitlines() if (part := line.strip()))


def reason_of(error: BaseException) -> str:
    """As `one_line`; of a system error, only its description: "No space left on device"."""
    return getattr(error, "strerror", None) or one_line(error)


def named(error: BaseException) -> str:
    """As `one_line`, with the error's type in front: "ValueError: ..."."""
    return f"{type(error).__name__}: {one_line(error)}"
