"""Flags, files and mistakes: every mistake is one line that names the way out, exit code 2."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from jobs.checked_settings import CheckedSettings, choices_of, flag_of, kinds_of
from jobs.cli import JOBS
from jobs.command_line import parse
from jobs.exits import EXIT_USAGE
from jobs.settings import REQUIRED, LabelSettings, setting

CONF = Path(__file__).parent.parent / "conf"


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


def test_a_flag_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("images_per_shard: 4\nload: 0.125\n")
    for arguments in (
        ["--config", str(file), "--load", "0.75"],
        ["--load", "0.75", "--config", str(file)],
        ["--load", "0.75", f"--config={file}"],
    ):
        settings = parsed("a", "--target", "b", *arguments)
        assert (settings.images_per_shard, settings.load) == (4, 0.75)


def test_a_later_file_overrides_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("images_per_shard: 4\nload: 0.125\n")
    second.write_text("load: 1e-3\n")
    settings = parsed("a", "--config", str(first), "--target", "b", "--config", str(second))
    assert (settings.images_per_shard, settings.load) == (4, 0.001)


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


def test_off_in_a_file_is_a_word(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("integrity: off\nprogress: off\n")
    arguments = ["in", "--output", "out", "--config", str(file)]
    settings = parse(LabelSettings, arguments, prog="afd label")
    assert (settings.integrity, settings.progress) == ("off", "off")


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("images_per_shard: 010", "images_per_shard", 10),  # YAML 1.1 has octal numbers
        ("images_per_shard: 0x1F", "images_per_shard", 31),
        ("size: 0o17", "size", 15),
        ("size: -3", "size", -3),
        ("load: 012.5", "load", 12.5),
        ("target: 1:30", "target", "1:30"),  # 90 seconds in YAML 1.1
        ("target: 2026-11-29", "target", "2026-11-29"),
        ("target: 2026_11", "target", "2026_11"),
        ("target: =", "target", "="),
        ("<<: {size: 7}", "size", 7),
    ],
)
def test_numbers_and_dates_in_a_file_are_those_of_yaml_1_2(
    tmp_path: Path, content: str, name: str, value: object
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    target = [] if name == "target" else ["--target", "b"]
    assert getattr(parsed("a", *target, "--config", str(file)), name) == value


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
    ("content", "expected"),
    [
        ("images_per_shrd: 3", "'images_per_shrd' in the file (did you mean images_per_shard?)"),
        ("mode: medium", "--mode 'medium' is not one of: fast, slow"),
        ("target: 20261129", "--target 20261129 is not text: put it in quotes"),
        ("source: true", "SOURCE True is not text: put it in quotes"),
        ("sizes: [1, atuo]", "--sizes 'atuo' is not one of: a whole number, auto (did you mean"),
        ("sizes: {1: 2}", "--sizes {1: 2} is not one of"),
        ("images_per_shard: 3.0", "--images-per-shard 3.0 is not a whole number"),
        ("3: 4", "unknown setting '3' in the file"),
        pytest.param("size: " + "1" * 9999, "Exceeds the limit", id="digits"),
        ("load:\nmode: slow\n", "--load is empty: give it a value, or leave it out"),
        ("mode:\nload: 0.5\n", "--mode"),
        ("load: ~\n", "--load is empty"),
        ("# caf\xe9\nload: 0.5\n", "the file is not UTF-8 text"),
        ("", "the file holds no settings"),
        ("mode: &a [fast]\nload: [*a, *a]\n", "not valid YAML: *a refers to a list at line 2"),
        pytest.param("mode: " + "[" * 99_999, "recursion", id="nested"),
        ("mode: fast\nload: {a\n", "not valid YAML: while parsing a flow mapping at line 2, col"),
    ],
)
def test_a_bad_file_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content, encoding="latin-1")
    assert expected in mistake(capsys, "a", "--target", "b", "--config", str(file))


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("nowhere.yaml", ""):
        place = str(tmp_path / name)
        expected = f"--config {place!r}: no such file"
        assert expected in mistake(capsys, "a", "--target", "b", "--config", place)


def test_a_mistake_in_a_file_is_told_where_a_flag_overrides_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("load: half\n")
    second.write_text("load: 0.25\n")
    files = ["--config", str(first), "--config", str(second)]
    assert "--load 'half' is not a number" in mistake(
        capsys, "a", "--target", "b", "--load", "1", *files
    )


def test_what_a_flag_may_be_called_and_given_a_file_may_say_too(tmp_path: Path) -> None:
    """Hyphens, numbers that a template has put in quotes, and one value where there may be more."""
    file = tmp_path / "settings.yaml"
    file.write_text("images-per-shard: '3'\nload: '1e-3'\nsizes: 5\nsource: a\ntarget: b\n")
    assert parsed("--config", str(file)) == Settings(
        source="a", target="b", images_per_shard=3, load=0.001, sizes=(5,)
    )


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


def printed_config(
    capsys: pytest.CaptureFixture[str], settings_class: type[CheckedSettings], *arguments: str
) -> str:
    with pytest.raises(SystemExit) as exit_info:
        parse(settings_class, ["--print-config", *arguments], prog="afd test")
    assert exit_info.value.code == 0
    return capsys.readouterr().out


def test_print_config_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed_config(capsys, Settings, "a", "--target", "b", "--load", "0.75")
    assert shown == (
        "source: a\ntarget: b\nimages_per_shard: 10\nload: 0.75\nmode: fast\nsize: auto\n"
        "sizes:\n- auto\n"
    )


def test_print_config_needs_no_place_and_prints_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown = printed_config(capsys, Settings, "--load", "0.75")
    assert not {"source", "target"} & set(yaml.safe_load(shown))
    file = tmp_path / "printed.yaml"
    file.write_text(shown)
    assert parsed("a", "--target", "b", "--config", str(file)).load == 0.75


def test_print_config_refuses_what_a_run_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a", "--target", "b", "--images-per-shard", "0", "--print-config"]
    assert "--images-per-shard 0 is not positive" in mistake(capsys, *arguments)


TEXTS = (
    *("20261129", "no", "1e5", "0o17", "1:30", "~", "null", "a: b # c", "é/😀", "a\nb\x85", " a "),
    *("-5", "~someone/a", "x" * 200, "\udcff.jpg"),
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("job", JOBS)
def test_the_printed_settings_are_a_config_with_the_same_meaning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, job: str, text: str
) -> None:
    """With the text in each setting that takes any; the others have their defaults."""
    settings_class, file = JOBS[job].settings_class(), tmp_path / "printed.yaml"
    hints, flags, by_place = typing.get_type_hints(settings_class), [], []
    for field in dataclasses.fields(settings_class):
        if str in kinds_of(hints[field.name]) and field.name not in ("memory_limit", "corpus"):
            value = text
        elif field.default is dataclasses.MISSING:
            value = choices_of(hints[field.name])[0]
        else:
            continue
        if field.metadata["positional"]:
            by_place.append(value)
        else:
            flags.append(f"{flag_of(field.name)}={value}")
    arguments = [*flags, "--", *by_place]
    file.write_text(printed_config(capsys, settings_class, *arguments), "utf-8")
    expected = parse(settings_class, arguments, prog=job)
    assert parse(settings_class, ["--config", str(file)], prog=job) == expected


def test_printed_numbers_and_words_are_read_as_they_were(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "printed.yaml"
    for arguments in (
        ["--load", "1e-5", "--size", "none", "--sizes", "5", "auto", "6"],
        ["--load", "1e300", "--size", "7", "--mode", "slow"],
        ["--load", "3", "--images-per-shard", "100_000_000"],
    ):
        file.write_text(printed_config(capsys, Settings, "a", "--target", "b", *arguments))
        assert parsed("--config", str(file)) == parsed("a", "--target", "b", *arguments)
    file.write_text(printed_config(capsys, Several, "a", "b c", "--loud"))
    printed = parse(Several, ["--config", str(file)], prog="afd test")
    assert printed == Several(files=("a", "b c"), loud=True)


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


def test_the_yaml_of_the_label_job_holds_every_setting_with_its_default() -> None:
    stored = yaml.safe_load((CONF / "label.yaml").read_text())
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(LabelSettings)
        if field.default is not dataclasses.MISSING
    }
    assert stored == defaults


def test_the_yaml_of_the_label_job_is_accepted() -> None:
    settings = parse(
        LabelSettings,
        ["in", "--output", "out", "--config", str(CONF / "label.yaml")],
        prog="afd label",
    )
    assert settings == LabelSettings(input="in", output="out")


@dataclass(frozen=True, kw_only=True)
class Several(CheckedSettings):
    """Several values by place, and a switch."""

    files: tuple[str, ...] = setting(REQUIRED, "which", positional=True)
    loud: bool = setting(False, "say more")


@dataclass(frozen=True, kw_only=True)
class Two(CheckedSettings):
    """Two values by place."""

    folder: str = setting(REQUIRED, "where", positional=True)
    query: str = setting(REQUIRED, "what", positional=True)
    mode: Literal["fast", "slow"] = setting("fast", "which")


def several(*arguments: str) -> Several:
    return parse(Several, arguments, prog="afd test")


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
