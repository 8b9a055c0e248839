"""Makes a command line from a settings class: flags, a YAML file, and one-line errors."""

from __future__ import annotations

import argparse
import os
import re
import sys
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn, TypeVar

from jobs.checked_settings import (
    CheckedSettings,
    checked,
    choices_of,
    flag_of,
    given,
    kinds_of,
    nearest,
    positional_settings,
)
from jobs.exits import EXIT_COMPLETE, EXIT_USAGE, print_answer
from jobs.yaml_1_2 import read_yaml, yaml_of
from pipeline.error_text import one_line, printable, reason_of

_Settings = TypeVar("_Settings", bound=CheckedSettings)

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}
# -x, --x, --x=a b; not -5, nor an SQL query that begins with a comment.
_FLAG = re.compile(r"-+[^\W\d-](\S*$|[\w-]*=)")


class _Parser(argparse.ArgumentParser):
    """Knows a settings class's flags. Reports a user's mistake in one line; exits with 2.

    Values by position are left over: argparse would take none behind a flag where some may be left
    out, as all may that can be in a file.
    """

    def __init__(self, settings_class: type, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False)
        self.settings_class = settings_class
        add_settings(self, settings_class, only_flags=True)

    def format_help(self) -> str:
        whole = argparse.ArgumentParser(prog=self.prog, description=self.settings_class.__doc__)
        add_settings(whole, self.settings_class)
        return whole.format_help()

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {printable(one_line(message))}\n")
        raise SystemExit(EXIT_USAGE)


def parse(settings_class: type[_Settings], arguments: Sequence[str], *, prog: str) -> _Settings:
    """The settings from a command line. A mistake ends the process: one line, exit code 2."""
    parser = _Parser(settings_class, prog)
    end = [*arguments, "--"].index("--")  # of the flags
    found, left = parser.parse_known_args(arguments[:end])
    flags = vars(found)
    files, print_config = flags.pop("config"), flags.pop("print_config")
    try:
        flags |= _by_position(left, arguments[end + 1 :], settings_class)
        values: dict[str, Any] = {}
        for file in map(_expand_home, files):
            values |= _checked(_settings_in(file, settings_class), settings_class)
        values |= _checked(flags, settings_class)
        unset = [f for f in fields(settings_class) if f.default is MISSING and f.name not in values]
        if not unset:
            settings = settings_class(**values)
        elif not print_config:
            raise ValueError(f"missing {' and '.join(map(given, unset))}; see --help")
    except ValueError as error:
        parser.error(str(error))
    if print_config:
        only_ascii = "utf" not in (sys.stdout.encoding or "").lower()
        print_answer(yaml_of(_with_defaults(values, settings_class), only_ascii=only_ascii))
        raise SystemExit(EXIT_COMPLETE)
    return settings


def add_settings(
    parser: argparse.ArgumentParser, settings_class: type, *, only_flags: bool = False
) -> dict[str, argparse.Action]:
    """Add an argument for each setting, whose value stays text; returns them by the setting's name.

    only_flags: without the settings that are given by position, and none of the others is
    required. A setting that is not given is not in the parser's result.
    """
    config = parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=[],
        help="YAML file of settings, whose keys are the flags' names with underscores; flags"
        " override it",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the settings that would be used, as YAML, and exit",
    )
    actions: dict[str, argparse.Action] = {"config": config}
    hints, positional = typing.get_type_hints(settings_class), positional_settings(settings_class)
    for field in fields(settings_class):
        options = _argument_options(field, hints[field.name])
        if field.name not in positional:
            options["required"] = field.default is MISSING and not only_flags
            actions[field.name] = parser.add_argument(flag_of(field.name), **options)
        elif not only_flags:
            actions[field.name] = parser.add_argument(field.name, **options)
    return actions


def _argument_options(field: Field[Any], hint: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for a setting."""
    options = {"default": argparse.SUPPRESS, "help": _help(field)}
    if hint is bool:  # --figures, --no-figures
        return {**options, "action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:  # --quality 7 10 15
        options["nargs"] = "+"
    elif field.metadata["positional"] and field.default is not MISSING:
        options["nargs"] = "?"
    is_positional = field.metadata["positional"]
    return {**options, "metavar": field.name.upper() if is_positional else _placeholder(hint)}


def _help(field: Field[Any]) -> str:
    default = field.default
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    state = "required" if default is MISSING else f"default: {default}"
    return f"{field.metadata['help']} ({state})".replace("%", "%%")  # which argparse would format


def _placeholder(hint: Any) -> str:
    """The placeholder of a value in the help: {N,auto} for a number or the word auto."""
    parts = [_METAVARS[kind] for kind in kinds_of(hint) if kind in _METAVARS] + choices_of(hint)
    return "{" + ",".join(parts) + "}" if len(parts) > 1 else parts[0]


def _by_position(
    left: Sequence[str], behind_flags: Sequence[str], settings_class: type
) -> dict[str, Any]:
    """The settings that are given by position. Raises ValueError.

    left: what the flags have left over; behind_flags: what follows a `--`.
    """
    for argument in left:  # first of all, because a value of its own may follow it
        if _FLAG.match(argument):
            raise ValueError(_unknown(argument, settings_class))
    names, found = positional_settings(settings_class), [*left, *behind_flags]
    if found and not names:
        raise ValueError(_unknown(found[0], settings_class))
    values: dict[str, Any] = dict(zip(names, found, strict=False))
    if rest := found[len(names) :]:
        last, first = names[-1], rest[0] or "''"
        if typing.get_origin(typing.get_type_hints(settings_class)[last]) is not tuple:
            raise ValueError(
                f"unexpected argument {first}: {last.upper()} is one value; put quotes around"
                " a pattern, and around a text with spaces"
            )
        values[last] = [values[last], *rest]
    return values


def _unknown(argument: str, settings_class: type) -> str:
    positional = positional_settings(settings_class)
    flag = argument.partition("=")[0]
    if flag in map(flag_of, positional):
        return f"unknown argument {flag}: {flag[2:].upper()} is given without a flag"
    flags = [flag_of(f.name) for f in fields(settings_class) if f.name not in positional]
    flags += ["--config", "--print-config", "--help"]
    return f"unknown argument {flag}{nearest(flag, flags)}; --help lists them"


def _settings_in(file: str, settings_class: type) -> dict[str, Any]:
    """The settings in a YAML file. Raises ValueError."""
    if not os.path.exists(file) or os.path.isdir(file):
        raise ValueError(f"--config {file!r}: no such file")
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except OSError as error:
        raise ValueError(f"--config {file!r}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: the file is not UTF-8 text ({error.reason})") from error
    try:
        found = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"--config: the file is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("--config: the file holds no settings")
    known = [field.name for field in fields(settings_class)]
    settings = {str(name).replace("-", "_"): value for name, value in found.items()}  # as in flags
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown setting {name!r} in the file{nearest(name, known)}")
    return settings


def _checked(values: dict[str, Any], settings_class: type) -> dict[str, Any]:
    """The values with the types of their settings. Raises ValueError.

    Also those that others override are checked: a mistake in a file is told when it is made.
    """
    hints = typing.get_type_hints(settings_class)
    return {
        field.name: checked(field, hint, _expand_home(_typed(values[field.name], hint)))
        for field in fields(settings_class)
        if field.name in values and (hint := hints[field.name])
    }


def _typed(value: Any, hint: Any) -> Any:
    """A text as the number, or the True or False, that it stands for where its setting is one.

    A whole number becomes a float where any number may be.
    """
    if isinstance(value, list):
        return [_typed(one, hint) for one in value]
    if type(value) not in (int, str):
        return value
    if hint is bool:
        return _YES_NO.get(str(value).lower(), value)
    for kind in (int, float):
        if kind in kinds_of(hint):
            with suppress(ValueError, OverflowError):
                return kind(value)
    return value


def _expand_home(value: Any) -> Any:
    """Expand a leading ~, which a shell does not do in --output=~/labels."""
    if isinstance(value, list):
        return [_expand_home(one) for one in value]
    is_below_home = isinstance(value, str) and value.startswith("~/")
    return os.path.expanduser(value) if is_below_home else value


def _with_defaults(values: dict[str, Any], settings_class: type) -> dict[str, Any]:
    """All settings but the required ones that are not given."""
    whole = {field.name: values.get(field.name, field.default) for field in fields(settings_class)}
    return {name: value for name, value in whole.items() if value is not MISSING}
