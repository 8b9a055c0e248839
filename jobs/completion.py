"""`afd completion`: a script with which bash or zsh completes jobs, flags and values."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import shtab

from jobs.cli import JOBS
from jobs.command_line import choices_of, parse
from jobs.exits import EXIT_COMPLETE, print_answer
from jobs.settings import REQUIRED, flag_of, setting

# job -> the module and name of its settings class, and the settings given by position.
SETTINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "label": ("jobs.settings", "LabelSettings", ("input",)),
    "train": ("jobs.train_settings", "TrainSettings", ("input",)),
    "evaluate": ("jobs.evaluate_settings", "EvaluateSettings", ("input",)),
    "compress": ("jobs.compress_settings", "CompressSettings", ("input",)),
    "explain": ("jobs.explain_settings", "ExplainSettings", ("images",)),
    "report": ("jobs.report_settings", "ReportSettings", ("output",)),
    "sql": ("jobs.sql", "SqlSettings", ("output", "query")),
    "benchmark": ("jobs.benchmark_settings", "BenchmarkSettings", ("input",)),
    "doctor": ("jobs.doctor", "DoctorSettings", ()),
    "demo": ("jobs.demo", "DemoSettings", ()),
    "completion": ("jobs.completion", "CompletionSettings", ("shell",)),
}
# The settings that name a file or a folder.
PATHS = frozenset(
    {
        *("input", "output", "images", "weights", "class_names", "afd", "clean"),
        *("html", "against", "record", "config"),
    }
)


@dataclass(frozen=True, kw_only=True)
class CompletionSettings:
    """Print a shell's completion script, for `source <(afd completion bash)` in ~/.bashrc."""

    shell: Literal["bash", "zsh"] = setting(REQUIRED, "the shell to print the script for")


def script(shell: str) -> str:
    """The script. It contains all words, so completing does not run Python."""
    text: str = shtab.complete(_all_jobs(), shell=shell)
    return text


def _all_jobs() -> argparse.ArgumentParser:
    """A parser for completion only: it knows every word and checks no values."""
    parser = argparse.ArgumentParser(prog="afd")
    jobs = parser.add_subparsers(dest="job")
    for name, text in JOBS.items():
        module, settings_class, positional = SETTINGS[name]
        job = jobs.add_parser(name, help=text)
        job.add_argument("--print-config", action="store_true", help="print the settings")
        _add(job, "--config", "YAML file of settings", files=True)
        found: Any = getattr(importlib.import_module(module), settings_class)
        _add_settings(job, found, positional)
    return parser


def _add_settings(
    job: argparse.ArgumentParser, settings_class: type, positional: Sequence[str]
) -> None:
    hints = typing.get_type_hints(settings_class)
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
    settings = parse(CompletionSettings, arguments, prog="afd completion", positional=["shell"])
    print_answer(script(settings.shell))
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
