"""Example settings, and what a command line makes of them."""

from dataclasses import dataclass
from typing import Literal

import pytest

from jobs.checked_settings import CheckedSettings
from jobs.command_line import parse
from jobs.exits import EXIT_USAGE
from jobs.settings import REQUIRED, setting


@dataclass(frozen=True, kw_only=True)
class Settings(CheckedSettings):
    """Settings to parse."""

    source: str = setting(REQUIRED, "where from", positional=True)
    target: str = setting(REQUIRED, "where to")
    images_per_shard: int = setting(10, "images in 100 % of a shard")
    load: float = setting(0.5, "share")
    mode: Literal["fast", "slow"] = setting("fast", "which")
    size: int | Literal["auto", "none"] = setting("auto", "pixels")
    sizes: tuple[int | Literal["auto"], ...] = setting(("auto",), "pixels, each")

    def check_values(self) -> None:
        if self.images_per_shard < 1:
            raise ValueError(f"--images-per-shard {self.images_per_shard} is not positive")


def parsed(*arguments: str) -> Settings:
    return parse(Settings, arguments, prog="afd test")


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a bad command line ends in."""
    with pytest.raises(SystemExit) as exit_info:
        parsed(*arguments)
    assert exit_info.value.code == EXIT_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("afd test: ")
    return lines[0]


@dataclass(frozen=True, kw_only=True)
class Several(CheckedSettings):
    """Several values by place, and a switch."""

    files: tuple[str, ...] = setting(REQUIRED, "which", positional=True)
    loud: bool = setting(False, "say more")


def several(*arguments: str) -> Several:
    return parse(Several, arguments, prog="afd test")
