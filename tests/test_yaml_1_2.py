"""What is written is read as it was, and other readers of YAML take text for text too."""

import math

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.yaml_1_2 import read_yaml, yaml_of

WORDS = st.sampled_from(
    ["no", "Off", "null", "true", "=", "<<", "2026-11-29", "#", "*a", "-", "\udcff", "\x85"]
)
NUMERALS = st.from_regex(r"[-+.0-9eExo_:~]{1,6}", fullmatch=True)
TEXTS = st.text() | st.sampled_from(["- a", "a: b"]) | WORDS | NUMERALS
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.booleans()

# In a fresh clone, Hypothesis first lists all of Unicode.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.dictionaries(st.sampled_from("abc"), TEXTS | NUMBERS | st.lists(TEXTS | NUMBERS)))
def test_settings_are_read_as_they_were(written: dict[str, object]) -> None:
    assert repr(read_yaml(yaml_of(written))) == repr(written)


@unhurried
@given(TEXTS)
def test_yaml_1_1_reads_the_same_text(text: str) -> None:
    assert yaml.safe_load(yaml_of({"a": text})) == {"a": text}


def test_what_is_no_number_is_written_as_yaml_has_it() -> None:
    written = yaml_of({"a": math.inf, "b": ("x", 1), "c": "a\nb"})
    assert written == 'a: .inf\nb:\n- x\n- 1\nc: "a\\nb"'


def test_a_list_is_written_where_it_is_once_more() -> None:
    both = ("auto",)
    assert read_yaml(yaml_of({"a": both, "b": both})) == {"a": ["auto"], "b": ["auto"]}
