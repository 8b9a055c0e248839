"""Every settings class refuses from Python what its command refuses, in the same words."""

import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jobs.cli import JOBS
from jobs.command_line import parse
from jobs.compress_settings import CompressSettings
from jobs.evaluate_settings import EvaluateSettings
from jobs.explain_settings import ExplainSettings
from jobs.report_settings import ReportSettings
from jobs.settings import LabelSettings


class Case(NamedTuple):
    """A setting of a class, with the types and the words that each of its values may have."""

    settings_class: Any
    name: str
    kinds: frozenset[type]
    words: tuple[str, ...]
    is_tuple: bool

    def made(self, value: Any) -> Any:
        """The setting's value in settings that are made with this one."""
        given = {**required(self.settings_class), self.name: value}
        return getattr(self.settings_class(**given), self.name)


def required(settings_class: Any) -> dict[str, Any]:
    """A value for each setting without a default."""
    hints = typing.get_type_hints(settings_class)
    return {
        found.name: typing.get_args(hints[found.name])[0]
        if typing.get_origin(hints[found.name]) is typing.Literal
        else "x"
        for found in fields(settings_class)
        if found.default is MISSING
    }


def case(settings_class: Any, name: str) -> Case:
    hint = typing.get_type_hints(settings_class)[name]
    is_tuple = typing.get_origin(hint) is tuple
    if is_tuple:
        hint = typing.get_args(hint)[0]
    is_union = not isinstance(hint, type) and typing.get_origin(hint) is not typing.Literal
    parts = typing.get_args(hint) if is_union else (hint,)
    kinds = frozenset(part for part in parts if isinstance(part, type))
    words = tuple(word for part in parts if part not in kinds for word in typing.get_args(part))
    assert kinds <= {str, int, float, bool}
    assert kinds or words
    return Case(settings_class, name, kinds, words, is_tuple)


SETTINGS = [job.settings_class() for job in JOBS.values()]
CASES = [case(made, found.name) for made in SETTINGS for found in fields(made)]
WITH_WORDS = [found for found in CASES if found.words]


def name_of(found: Any) -> str:
    return f"{found.settings_class.__name__}-{found.name}"


def test_the_cases_are_those_of_every_job() -> None:
    assert len(SETTINGS) == len(JOBS) == 11
    assert len(WITH_WORDS) > 40
    assert {kind for found in CASES for kind in found.kinds} == {str, int, float, bool}


@pytest.mark.parametrize("found", WITH_WORDS, ids=name_of)
def test_a_word_that_is_none_of_the_choices_is_refused_as_on_the_command_line(
    found: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = f"{found.words[0]}x"
    with pytest.raises(ValueError, match="is not one of") as caught:
        found.made((bad,) if found.is_tuple else bad)
    assert f"'{bad}'" in str(caught.value)
    assert f"(did you mean {found.words[0]}?)" in str(caught.value)
    arguments = []
    for name, value in {**required(found.settings_class), found.name: bad}.items():
        positional = found.settings_class.__dataclass_fields__[name].metadata["positional"]
        arguments += [value] if positional else ["--" + name.replace("_", "-"), value]
    with pytest.raises(SystemExit):
        parse(found.settings_class, arguments, prog="afd test")
    assert capsys.readouterr().err == f"afd test: {caught.value}\n"


@pytest.mark.parametrize("found", CASES, ids=name_of)
def test_a_value_of_another_type_is_refused(found: Case) -> None:
    """True is no number, but a whole number may stand for any."""
    kinds = found.kinds | ({int} if float in found.kinds else set())
    kinds = kinds | ({str} if found.words else set())  # tested above
    for bad in ("5", 5, 2.5, True, np.arange(3), {}, b"5"):
        if type(bad) not in kinds:
            for value in (bad, (bad,), [bad]):
                with pytest.raises(ValueError, match=r"^(--)?[\w-]+ .* is not ") as caught:
                    found.made(value)
                assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("found", CASES, ids=name_of)
def test_an_empty_value_is_refused(found: Case) -> None:
    for empty in ("", None):
        with pytest.raises(ValueError, match=r"^(--)?[\w-]+ is empty: give it a value"):
            found.made(empty)


def test_the_settings_are_named_as_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"^INPUT is empty: give it a value$"):
        LabelSettings(input="", output="out")
    with pytest.raises(ValueError, match=r"^--afd is empty: give it a value, or leave it out$"):
        LabelSettings(input="in", output="out", afd="")
    with pytest.raises(ValueError, match=r"^INPUT 5 is not text: put it in quotes$"):
        LabelSettings(input=5, output="out")  # type: ignore[arg-type]


def test_a_long_list_is_no_long_message() -> None:
    with pytest.raises(ValueError, match=r"^INPUT \['photo-0.jpg', .* is not text$") as caught:
        LabelSettings(
            input=[f"photo-{number}.jpg" for number in range(1000)],  # type: ignore[arg-type]
            output="out",
        )
    assert len(str(caught.value)) < 200


def test_a_long_word_is_shown_whole() -> None:
    word = "as-fast-as-the-machine-can-and-no-faster"
    with pytest.raises(ValueError, match=f"^--device '{word}' is not one of"):
        LabelSettings(input="in", output="out", device=word)  # type: ignore[arg-type]


def test_a_path_stands_for_its_text() -> None:
    settings = LabelSettings(input=Path("in"), output=Path("out"), afd=Path("a.safetensors"))  # type: ignore[arg-type]
    assert settings == LabelSettings(input="in", output="out", afd="a.safetensors")
    explain = ExplainSettings(images=(Path("a.jpg"), "b.jpg"))  # type: ignore[arg-type]
    assert explain.images == ("a.jpg", "b.jpg")


def test_a_list_or_one_value_stands_for_a_tuple() -> None:
    """A text of several letters was as many images, `.` among them: a whole folder."""
    assert ExplainSettings(images="./a.jpg").images == ("./a.jpg",)  # type: ignore[arg-type]
    assert ExplainSettings(images=["a", "b"]).images == ("a", "b")  # type: ignore[arg-type]
    made = EvaluateSettings(input="in", output="out", quality=[10, 20], protocol="imagenet-c")  # type: ignore[arg-type]
    assert (made.quality, made.protocol) == ((10, 20), ("imagenet-c",))
    with pytest.raises(ValueError, match=r"^--quality 101 is not between 1 and 100$"):
        CompressSettings(input="in", output="out", quality=[101])  # type: ignore[arg-type]


def test_a_whole_number_stands_for_any() -> None:
    assert ReportSettings(output="out", sure=1).sure == 1
