"""Lines for people, objects for programs."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from jobs.log import configure, is_json, say, with_progress

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def plain_again() -> object:
    yield
    configure()


def test_people_are_shown_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    say("3 of 4 images, café", images=3)
    assert capsys.readouterr() == ("", "3 of 4 images, café\n")
    assert not is_json()


def test_programs_are_given_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    assert is_json()
    say('a "line"\nof two', images=3, counts={"ok": 3}, error=None)
    [line] = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    said_at = datetime.fromisoformat(document.pop("time"))
    assert abs(datetime.now(UTC) - said_at) < timedelta(minutes=1)
    assert document == {
        "level": "info",
        "message": 'a "line"\nof two',
        "images": 3,
        "counts": {"ok": 3},
        "error": None,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_files_name_neither_drives_the_terminal_nor_forges_a_line(
    log_format: Literal["text", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_format)
    message = "x\x1b[2J\x9b31m\u202e.jpg\nafd label: complete"
    say(message)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    if log_format == "json":
        assert json.loads(line)["message"] == message


def test_configuring_again_doubles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    configure("text", "debug")
    say("once")
    assert capsys.readouterr().err == "once\n"


def test_what_takes_long_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    monkeypatch.setattr("jobs.log._PROGRESS_EVERY_S", 0.0)
    assert list(with_progress(["ab", "c"], len, 3)) == ["ab", "c"]
    assert capsys.readouterr().err.splitlines() == ["2/3 images", "3/3 images"]
    monkeypatch.setattr("jobs.log._PROGRESS_EVERY_S", 60.0)
    assert list(with_progress(["ab", "c"], len, 3)) == ["ab", "c"]
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_that_takes_no_more_is_no_reason_to_stop() -> None:
    program = "from jobs.log import configure, say; configure(); say('1'); say('2'); print('done')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=full
        )
    assert (done.returncode, done.stdout) == (0, b"done\n")
