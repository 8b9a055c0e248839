"""Flags and mistakes: every mistake is one line that names the way out, exit code 2."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from command_lines import Settings, Several, mistake, parsed, several

from jobs.checked_settings import CheckedSettings
from jobs.command_line import parse
from jobs.settings import REQUIRED, LabelSettings, setting


def test_defaults_are_the_dataclass_defaults() -> None:
    assert parsed("a", "--target", "b") == Settings(source="a", target="b")


def test_a_positional_setting_with_a_default_may_be_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Optional(CheckedSettings):
        """Settings to parse."""

        source: str = setting("here", "where from", positional=True)

    for arguments, source in (([], "here"), (["there"], "there")):
        settings = parse(Optional, arguments, prog="afd test")
        assert settings.source == source


def test_every_setting_has_a_flag() -> None:
    arguments = ["--images-per-shard", "3", "--load", "0.25", "--mode", "slow", "--size", "none"]
    assert parsed("a", "--target", "b", *arguments) == Settings(
        source="a", target="b", images_per_shard=3, load=0.25, mode="slow", size="none"
    )


def test_a_whole_number_is_a_float_where_any_number_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("load: 1\n")
    for arguments in (["--load", "1"], ["--config", str(file)]):
        load = parsed("a", "--target", "b", *arguments).load
        assert (load, type(load)) == (1, float)
    file.write_text(f"load: {10**400}\nmode: x\n")  # for which there is no float
    assert "--mode 'x'" in mistake(capsys, "a", "--target", "b", "--config", str(file))


def test_an_empty_place_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a shell variable that is not set."""
    for arguments, name in (
        (["", "--output", "out"], "INPUT"),
        (["in", "--output", ""], "--output"),
    ):
        with pytest.raises(SystemExit):
            parse(LabelSettings, arguments, prog="afd label")
        assert f"{name} is empty: give it a value\n" in capsys.readouterr().err


def test_an_empty_value_may_be_left_out_where_there_is_a_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Text, a number, a word of several, or several numbers."""
    for flag in ("--afd", "--batch-size", "--integrity", "--top-k"):
        with pytest.raises(SystemExit):
            parse(LabelSettings, ["in", "--output", "out", flag, ""], prog="")
        assert f"{flag} is empty: give it a value, or leave it out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        several("a", "")
    assert "FILES is empty: give it a value\n" in capsys.readouterr().err


def test_a_home_folder_that_the_shell_left_alone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in --target=~/b."""
    file = tmp_path / "settings.yaml"
    file.write_text("load: 0.25\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = parsed("~/a", "--target=~/b", "--config=~/settings.yaml")
    assert (settings.source, settings.target) == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert settings.load == 0.25
    assert several("~/a", "b~/c").files == (f"{tmp_path}/a", "b~/c")


def test_one_value_too_many_may_be_a_pattern_that_the_shell_expanded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = "unexpected argument c=1.jpg: SOURCE is one value; put quotes around a pattern"
    assert expected in mistake(capsys, "a", "c=1.jpg", "d.jpg", "--target", "b")
    assert expected in mistake(capsys, "a", "--target", "b", "c=1.jpg")
    assert "unexpected argument '': SOURCE" in mistake(capsys, "a", "--target", "b", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "x"], "unknown argument --source: SOURCE is given without a flag"),
        (["--sourrce", "x"], "unknown argument --sourrce; --help lists them"),  # it has no flag
        (["--images-per", "3"], "unknown argument --images-per (did you mean --images-per-shard?)"),
        (["--sourrce=x y"], "unknown argument --sourrce;"),
        (["-s", "3"], "unknown argument -s"),
        (["c", "--images-per-shrd", "3"], "(did you mean --images-per-shard?)"),
        (["--images-per-shrd", "3"], "--images-per-shrd (did you mean --images-per-shard?)"),
        (["--mode", "slwo"], "--mode 'slwo' is not one of: fast, slow (did you mean slow?)"),
        (["--images-per-shard", "many"], "--images-per-shard 'many' is not a whole number"),
        (["--load", "half"], "--load 'half' is not a number"),
        (["--load", "nan"], "--load nan is not a number"),
        (["--load", "inf"], "--load inf is not a number"),
        (["--size", "nnoe"], "is not one of: a whole number, auto, none (did you mean none?)"),
        (["--images-per-shard", "0"], "--images-per-shard 0 is not positive"),
        (["--images-per-shard", "-1"], "--images-per-shard -1 is not positive"),
        (["--images-per-shard=-1"], "--images-per-shard -1 is not positive"),
        (["--images-per-shard", "1e3"], "--images-per-shard '1e3' is not a whole number"),
        (["--images-per-shard", "["], "--images-per-shard '[' is not a whole number"),
        (["--images-per-shard"], "--images-per-shard: expected one argument"),
        (["--size", "null"], "--size 'null' is not one of: a whole number, auto, none"),
        (["--sizes", "5", "c"], "--sizes 'c' is not one of"),
        (["--config"], "--config: expected one argument"),
        (
            ["--sizes", "1", "atuo"],
            "'atuo' is not one of: a whole number, auto (did you mean auto?)",
        ),
    ],
)
def test_a_bad_flag_is_named_with_the_nearest_good_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in mistake(capsys, "a", "--target", "b", *arguments)


def test_missing_arguments_are_named_as_they_are_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "missing SOURCE and --target" in mistake(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "q", "--mode", "slow"],
        ["a", "--mode", "slow", "q"],
        ["--mode", "slow", "a", "q"],
        ["--mode=slow", "--", "a", "q"],
        ["a", "--mode", "slow", "--", "q"],
        ["a", "q", "--mode", "slow", "--"],
    ],
)
def test_values_by_place_stand_before_between_and_behind_flags(arguments: list[str]) -> None:
    assert parse(Two, arguments, prog="afd test") == Two(folder="a", query="q", mode="slow")


def test_a_value_by_place_may_begin_with_a_hyphen() -> None:
    for query in ("-5", "-", "-.5", "-- a comment\nSELECT 1", "- a"):
        assert parse(Two, ["a", query], prog="afd test").query == query
    for query in ("-q", "--query", "--mode=fast", "--"):
        assert parse(Two, ["a", "--", query], prog="afd test").query == query
    assert several("a", "--loud", "b", "--", "-c", "--loud").files == ("a", "b", "-c", "--loud")


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        assert field.metadata["help"] in printed
    assert "_" not in "".join(word for word in printed.split() if word.startswith("--"))
    assert "--size {N,auto,none} pixels (default: auto)" in printed
    assert "SOURCE where from (required)" in printed
    assert "--target TEXT where to (required)" in printed
    assert "--sizes {N,auto} [{N,auto} ...] pixels, each (default: auto)" in printed
    usage = printed.partition("Settings to parse.")[0]
    assert usage.startswith("usage: afd test [-h] [--config FILE] [--print-config] --target TEXT [")
    assert usage.endswith(" SOURCE ")
    assert not any(name in printed for name in ("Union", "Literal", "type:"))


@dataclass(frozen=True, kw_only=True)
class Two(CheckedSettings):
    """Two values by place."""

    folder: str = setting(REQUIRED, "where", positional=True)
    query: str = setting(REQUIRED, "what", positional=True)
    mode: Literal["fast", "slow"] = setting("fast", "which")


def test_several_values_by_place() -> None:
    assert several("a", "b").files == ("a", "b")
    assert several("a", "--loud", "b").files == ("a", "b")


def test_a_switch_is_on_off_or_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("loud: true\n")
    assert not several("a").loud
    assert several("--loud", "a") == Several(files=("a",), loud=True)
    assert several("a", "--config", str(file)).loud
    assert not several("a", "--config", str(file), "--no-loud").loud
    file.write_text("loud: perhaps\n")
    with pytest.raises(SystemExit):
        several("a", "--config", str(file))
    assert "--loud 'perhaps' is not True or False" in capsys.readouterr().err
    for words, loud in (("yes", "True", "'true'"), True), (("no", "FALSE", "'no'"), False):
        for word in words:
            file.write_text(f"loud: {word}\n")
            assert several("a", "--config", str(file)).loud is loud


def test_missing_values_by_place_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        several()
    assert "missing FILES" in capsys.readouterr().err


def test_a_bad_value_by_place_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Placed(CheckedSettings):
        """A choice by place."""

        shell: Literal["bash", "zsh"] = setting(REQUIRED, "which", positional=True)

    with pytest.raises(SystemExit):
        parse(Placed, ["fish"], prog="afd test")
    assert "afd test: SHELL 'fish' is not one of: bash, zsh\n" in capsys.readouterr().err
