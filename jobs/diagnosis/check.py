"""What `afd doctor` says about one thing, as a line of a table or as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "wrong"]
NAME_WIDTH, _STATE_WIDTH = 24, 9  # characters


@dataclass(frozen=True, kw_only=True)
class Check:
    """A finding.

    required: labelling cannot run here while it is not ok.
    fix: the command that fixes it, or None where it is ok or no command does.
    """

    name: str
    state: State
    found: str
    required: bool = True
    fix: str | None = None

    @property
    def stops(self) -> bool:
        return self.required and self.state != "ok"


def line(check: Check) -> str:
    """What follows the name in the table."""
    text = f"{check.state:<{_STATE_WIDTH}}{check.found}"
    if check.fix is None:
        return text
    return f"{text}\n{'':<{NAME_WIDTH + _STATE_WIDTH}}fix: {check.fix}"
