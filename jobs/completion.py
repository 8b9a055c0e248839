"""`afd completion`: a script with which bash or zsh completes jobs, flags and values."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import shtab

from jobs.checked_settings import CheckedSettings, choices_of, flag_of, positional_settings
from jobs.cli import JOBS
from jobs.command_line import parse
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
        job.add_argument("--print-config", action="store_true", help="print the settings")
        _add(job, "--config", "YAML file of settings", files=True)
        _add_settings(job, described.settings_class())
    return parser


def _add_settings(job: argparse.ArgumentParser, settings_class: type) -> None:
    hints, positional = typing.get_type_hints(settings_class), positional_settings(settings_class)
    for field in dataclasses.fields(settings_class):
        hint, name = hints[field.name], flag_of(field.name)
        extra: dict[str, Any] = {}
        if typing.get_origin(hint) is tuple:
            hint, extra["nargs"] = typing.get_args(hint)[0], "+"
        if field.name in positional:
            name = field.name
        if hint is bool:
            extra["action"] = argparse.BooleanOptionalAction
        elif choices := choices_of(hint):
            extra["choices"] = choices
        _add(job, name, field.metadata["help"], files=field.name in PATHS, **extra)


def _add(
    job: argparse.ArgumentParser, name: str, description: str, *, files: bool, **extra: Any
) -> None:
    # argparse would take a % as a format specifier.
    action = job.add_argument(name, help=description.replace("%", "%%"), **extra)
    if files:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> int:
    """`afd completion`: exit code 0 with the script, 2 for bad usage."""
    settings = parse(CompletionSettings, arguments, prog="afd completion")
    print_answer(script(settings.shell))
    return EXIT_COMPLETE
