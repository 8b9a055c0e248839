"""The page: nothing from elsewhere, nothing that is not its own, text that stays text."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from jobs.reporting.page import _script_text, render
from jobs.reporting.vega_lite import Chart

HOSTILE = "<img src=x onerror=alert(1)>.jpg"
SPEC = {"mark": "bar", "data": {"values": [{"name": "</script><script>alert(1)</script>"}]}}


def context(**changes: Any) -> dict[str, Any]:
    """The least that the template needs."""
    return {
        "title": HOSTILE,
        "subtitle": "",
        "made": "",
        "sections": [("summary", "Summary")],
        "notices": [("bad", HOSTILE)],
        "cards": [("1", "image", "")],
        "change": None,
        "statuses": [],
        "reasons": [],
        "labels": [],
        "compression_notices": [],
        "compression_charts": [],
        "drift_notices": [],
        "drift_charts": [],
        "has_drift": False,
        "has_flip": False,
        "galleries": [],
        "run_notices": [],
        "run_charts": [],
        "stage_rows": [],
        "facts": [("Model", [("weights", HOSTILE)])],
        "queries": {"bad": "", "at_risk": ""},
        **changes,
    }


class Read(HTMLParser):
    """The elements of a page and what stands in its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = [tag]
            self.inline.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open = []

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, text = self.inline[-1]
            self.inline[-1] = (tag, text + data)


@pytest.fixture(scope="module")
def page() -> str:
    chart = Chart("one", HOSTILE, HOSTILE, SPEC, ("a", "b"), [(HOSTILE, HOSTILE)])
    return render(context(compression_charts=[chart]), [chart])


@pytest.fixture(scope="module")
def read(page: str) -> Read:
    return Read(page)


def test_names_are_escaped(page: str, read: Read) -> None:
    assert HOSTILE not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;.jpg") > 6
    assert [attributes for tag, attributes in read.elements if tag == "img"] == []


def test_a_charts_data_cannot_end_its_element(read: Read) -> None:
    scripts = [text for tag, text in read.inline if tag == "script"]
    assert len(scripts) == 3
    assert r"\u003c/script>\u003cscript>alert(1)\u003c/script>" in scripts[0]


def test_the_policy_names_every_inline_script_and_style(read: Read) -> None:
    (policy,) = (
        attributes["content"] or ""
        for tag, attributes in read.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    for tag, text in [read.inline[0], *read.inline[2:]]:  # the second is data, which never runs
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        directive = next(part for part in policy.split("; ") if part.startswith(f"{tag}-src"))
        assert f"'sha256-{digest}'" in directive


def test_nothing_comes_from_elsewhere(read: Read) -> None:
    for tag, attributes in read.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_every_part_of_the_page_has_a_name(read: Read) -> None:
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.elements:
        if tag == "section":
            assert attributes["aria-labelledby"] in ids
    assert ("html", {"lang": "en"}) in read.elements


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < 1_500_000


def test_a_script_that_talks_of_scripts() -> None:
    text = _script_text('a = "<script>"; b = "</SCRIPT>"; c = "<!--"; d = 1 < 2;')
    assert text == r'a = "\x3cscript>"; b = "\x3c/SCRIPT>"; c = "\x3c!--"; d = 1 < 2;'
    assert not re.search(r"<(/?script|!--)", text, re.IGNORECASE)
