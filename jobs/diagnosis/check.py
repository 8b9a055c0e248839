"""The result of one check of `afd doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "wrong"]
NAME_WIDTH, _STATE_WIDTH = 24, 9  # characters


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check.

    required: labelling cannot run here unless it is ok.
    fix: the command that fixes it; None when it is ok or no command can fix it.
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
    """The check's line in the table, without its name."""
    text = f"{check.state:<{_STATE_WIDTH}}{check.found}"
    if check.fix is None:
        return text
    return f"{text}\n{'':<{NAME_WIDTH + _STATE_WIDTH}}fix: {check.fix}"
