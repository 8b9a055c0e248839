"""YAML files of settings, as --config reads and --print-config writes them."""

import dataclasses
import typing
from pathlib import Path

import pytest
import yaml
from command_lines import Settings, Several, mistake, parsed

from jobs.checked_settings import CheckedSettings, choices_of, flag_of, kinds_of
from jobs.cli import JOBS
from jobs.command_line import parse
from jobs.settings import LabelSettings

CONF = Path(__file__).parent.parent / "conf"


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
        ("load: .nan\n", "--load nan is not a number"),
        ("load: !!bool x\n", "not valid YAML: 'x'"),
        ("load: !!float ''\n", "not valid YAML: "),
        ("target: !!timestamp x\n", "not valid YAML: "),
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


def test_a_terminal_of_ascii_is_shown_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "printed.yaml"
    with file.open("w", encoding="ascii") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        with pytest.raises(SystemExit):
            parsed("caf\xe9", "--target", "b", "--print-config")
    assert parsed("--config", str(file)).source == "caf\xe9"


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
