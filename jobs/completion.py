"""`afd completion`: a script with which bash or zsh completes jobs, flags and values."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import shtab

from jobs.checked_settings import CheckedSettings, choices_of
from jobs.cli import JOBS
from jobs.command_line import add_settings, parse
from jobs.exits import EXIT_COMPLETE, print_answer
from jobs.settings import REQUIRED, setting

# The settings that name a file or a folder.
PATHS = frozenset(
    {
        *("input", "output", "images", "weights", "class_names", "afd", "clean"),
        *("html", "against", "record", "config"),
    }
)


@dataclass(frozen=True, kw_only=True)
class CompletionSettings(CheckedSettings):
    """Print a shell's completion script, for `source <(afd completion bash)` in ~/.bashrc."""

    shell: Literal["bash", "zsh"] = setting(
        REQUIRED, "the shell to print the script for: bash or zsh", positional=True
    )


def script(shell: str) -> str:
    """The script. It contains all words, so completing does not run Python."""
    text: str = shtab.complete(_all_jobs(), shell=shell)
    return text


def _all_jobs() -> argparse.ArgumentParser:
    """A parser for completion only: it knows every word and checks no values."""
    parser = argparse.ArgumentParser(prog="afd")
    jobs = parser.add_subparsers(dest="job")
    for name, described in JOBS.items():
        job = jobs.add_parser(name, help=described.summary)
        hints = typing.get_type_hints(described.settings_class())
        for setting_name, action in add_settings(job, described.settings_class()).items():
            action.choices = choices_of(hints.get(setting_name)) or None
            if setting_name in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def main(arguments: Sequence[str]) -> int:
    """`afd completion`: exit code 0 with the script, 2 for bad usage."""
    settings = parse(CompletionSettings, arguments, prog="afd completion")
    print_answer(script(settings.shell))
    return EXIT_COMPLETE
