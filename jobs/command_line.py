"""Makes a command line from a settings class: flags, a YAML file, and one-line errors."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import yaml
from jsonargparse import (
    ActionConfigFile,
    ActionYesNo,
    ArgumentParser,
    DefaultHelpFormatter,
    set_loader,
)

from jobs.checked_settings import (
    CheckedSettings,
    choices_of,
    described,
    flag_of,
    given,
    is_choice,
    is_empty,
    is_union,
    nearest,
    positional_settings,
)
from jobs.exits import EXIT_USAGE
from pipeline.error_text import one_line, printable

_Settings = TypeVar("_Settings", bound=CheckedSettings)

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
_UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (\S+)", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(r"(?:Option|Key) [\"']([\w.]+)[\"'] is not (?:accepted|expected)")
_BAD_VALUE = re.compile(
    r"Parser key \"(\w+)\"(?: element \d+)?:.*?(?:Got|Given) value: (.*)", re.DOTALL
)
_NOT_YAML = 'in "<unicode string>", '
_MISSING = re.compile(r"arguments are required: (.*)", re.IGNORECASE)


class _Yaml12Loader(yaml.SafeLoader):
    """Reads plain words as YAML 1.2 does: `off`, 1:30 and dates are text; 1e-3 and 010 numbers."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        letter: [(tag, word) for tag, word in known if tag.endswith((":null", ":merge"))]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses references to lists: a few, one inside the other, stand for billions of words."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and isinstance(
            self.anchors.get(event.anchor), yaml.CollectionNode
        ):
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor} refers to a list", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Without YAML 1.1's octal numbers, in which 010 is 8."""
        text = self.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|false)$"), list("tf")
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.inf|\.nan)$"),
    list("-+.0123456789"),
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _Yaml12Loader.construct_yaml_int)
set_loader(
    "yaml",
    lambda text: yaml.load(text, Loader=_Yaml12Loader),
    # RecursionError: a hundred thousand brackets; ValueError: a number of thousands of digits
    (yaml.YAMLError, RecursionError, ValueError),
)


class _HelpFormatter(DefaultHelpFormatter):
    """Leaves out Python types: the placeholders already say what a value looks like."""

    def _get_type_str(self, action: argparse.Action) -> None:
        return None


class _Parser(ArgumentParser):
    """Reports a user's mistake in one line that names the value and the way out; exits with 2."""

    settings_class: type
    positional: Sequence[str]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {printable(self._worded(message))}\n")
        raise SystemExit(EXIT_USAGE)

    def _worded(self, message: str) -> str:
        fields = {field.name: field for field in dataclasses.fields(self.settings_class)}
        if match := _UNKNOWN_FLAG.search(message):
            if self.positional and not match[1].startswith("-"):
                return self._one_too_many(match[1])
            flag = match[1].partition("=")[0]
            if flag in map(flag_of, self.positional):
                return f"unknown argument {flag}: {flag[2:].upper()} is given without a flag"
            flags = [flag_of(name) for name in fields if name not in self.positional]
            flags += ["--config", "--print-config", "--help"]
            return f"unknown argument {flag}{nearest(flag, flags)}; --help lists them"
        if match := _UNKNOWN_KEY.search(message):
            return f"unknown setting {match[1]!r} in the file{nearest(match[1], list(fields))}"
        if (match := _BAD_VALUE.search(message)) and match[1] in fields:
            if not (found := match[2].strip()):
                return is_empty(fields[match[1]])
            value = found.splitlines()[0]
            hint = typing.get_type_hints(self.settings_class)[match[1]]
            wanted, near = described(hint), nearest(value, choices_of(hint))
            way_out = ": put it in quotes" if wanted == "text" else near  # as 20261129 in a file
            return f"{given(fields[match[1]])} {value!r} is not {wanted}{way_out}"
        if match := _MISSING.search(message):
            names = [name.lstrip("-").replace("-", "_") for name in match[1].split(", ")]
            missing = " and ".join(given(fields[name]) for name in names)
            return f"missing {missing}; see --help"
        if "Unexpected config" in message:
            return "--config: the file holds no settings"
        if _NOT_YAML in message:  # which says nothing of the file's name
            found = message.partition("Problems parsing config:")[2].replace(_NOT_YAML, "at ")
            return f"--config: the file is not valid YAML: {one_line(found.strip())}"
        return one_line(message)

    def _one_too_many(self, argument: str) -> str:
        last = self.positional[-1]
        head = f"unexpected argument {argument}: {last.upper()}"
        if typing.get_origin(typing.get_type_hints(self.settings_class)[last]) is tuple:
            return f"{head} must be given together, without flags between them"
        return f"{head} is one value; put quotes around a pattern, and around a text with spaces"


def make_parser(settings_class: type, prog: str) -> _Parser:
    """A parser for a dataclass of settings; the keys of the YAML file are the field names."""
    parser = _Parser(prog=prog, description=settings_class.__doc__, formatter_class=_HelpFormatter)
    positional = positional_settings(settings_class)
    parser.settings_class, parser.positional = settings_class, positional
    parser.add_argument(
        "--config",
        metavar="FILE",
        action=ActionConfigFile,
        help="YAML file of settings; flags override it",
    )
    _respell_print_config(parser)
    hints = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        is_positional = field.name in positional
        name = field.name if is_positional else flag_of(field.name)
        options = _argument_options(field, hints[field.name], is_positional=is_positional)
        parser.add_argument(name, help=field.metadata["help"], **options)
    return parser


def _argument_options(
    field: dataclasses.Field[Any], hint: Any, *, is_positional: bool
) -> dict[str, Any]:
    """The arguments of `add_argument` for a setting."""
    required = field.default is dataclasses.MISSING
    options: dict[str, Any] = {} if required else {"default": field.default}
    if typing.get_origin(hint) is tuple:  # Several values: --quality 7 10 15
        hint = typing.get_args(hint)[0]
        options["nargs"] = "+"
        if not required:
            options["default"] = list(options["default"])
    if is_positional and not required:
        options["nargs"] = "?"
    if hint is bool:  # --figures, --no-figures
        options["action"] = ActionYesNo(yes_prefix="", no_prefix="no-")
    else:
        options["type"] = hint
    if is_positional:
        options["metavar"] = field.name.upper()
    elif not (hint is bool or is_choice(hint)):
        options["metavar"] = _placeholder(hint)
    if required and not is_positional:
        options["required"] = True
    return options


def parse(settings_class: type[_Settings], arguments: Sequence[str], *, prog: str) -> _Settings:
    """The settings from a command line. A mistake ends the process: one line, exit code 2."""
    parser = make_parser(settings_class, prog)
    files, others = _split_config_files(arguments)
    for file in files:
        if not os.path.exists(file) or os.path.isdir(file):
            parser.error(f"--config {file!r}: no such file")
    configs = [part for file in files for part in ("--config", file)]
    respelt = [re.sub("^--print-config", "--print_config", argument) for argument in others]
    try:
        values = parser.parse_args(configs + respelt)
    except UnicodeDecodeError as error:
        parser.error(f"--config: the file is not UTF-8 text ({error.reason})")
    found = {}
    for field in dataclasses.fields(settings_class):
        value = getattr(values, field.name)
        is_list = isinstance(value, list)
        found[field.name] = tuple(map(_expand_home, value)) if is_list else _expand_home(value)
    try:
        return settings_class(**found)
    except ValueError as error:
        parser.error(str(error))


def _expand_home(value: Any) -> Any:
    """Expand a leading ~, which a shell does not do in --output=~/labels."""
    return os.path.expanduser(value) if str(value).startswith("~/") else value


def _split_config_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(--config files, all other arguments). The others override the files in any order."""
    files: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--config":
            files += map(_expand_home, [*itertools.islice(left, 1)] or [""])
        elif argument.startswith("--config="):
            files.append(_expand_home(argument.partition("=")[2]))
        else:
            others.append(argument)
    return files, others


def _respell_print_config(parser: ArgumentParser) -> None:
    """Show jsonargparse's --print_config with a hyphen; `parse` changes it back."""
    action = parser._option_string_actions["--print_config"]
    action.option_strings = ["--print-config"]
    action.help = "Print the settings that would be used, as YAML, and exit."
    action.metavar = "[=skip_default]"


def _placeholder(hint: Any) -> str:
    """The placeholder of a value in the help: {N,auto} for a number or the word auto."""
    kinds = typing.get_args(hint) if is_union(hint) else (hint,)
    parts = [_METAVARS[kind] for kind in kinds if kind in _METAVARS] + choices_of(hint)
    return "{" + ",".join(parts) + "}" if len(parts) > 1 else parts[0]
