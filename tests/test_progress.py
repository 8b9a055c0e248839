"""The progress line, on and off a terminal."""

import json
import sys
import time
from dataclasses import replace

import pytest

from jobs.labelling.messages import CommitRecord
from jobs.labelling.progress import Progress, Style
from jobs.log import configure


@pytest.fixture(autouse=True)
def heard() -> None:
    configure()


def record(*, started_s_ago: float, ok: int = 9) -> CommitRecord:
    return CommitRecord(0, started_s_ago, {"ok": ok})


def test_plain_lines_count_from_the_first_shards_start(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(30, 10, "plain") as progress:
        progress.add(10, record(started_s_ago=2.0))
        progress.add(10, record(started_s_ago=1.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "20 images to label"
    assert lines[-1].startswith("30/30 images, 10.0 images/s, 0 s left, 2 bad")


def test_a_failed_shard_does_not_count_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(20, 0, "plain") as progress:
        progress.add(10, CommitRecord(0, 0.0, error="no"))
        progress.add(10, record(started_s_ago=1.0))
    assert "20/20" not in capsys.readouterr().err


def test_a_clock_that_is_set_back_delays_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.labelling.progress._PLAIN_INTERVAL_S", 0.0)
    with Progress(30, 0, "plain") as progress:
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now - 3600)
        progress.add(10, record(started_s_ago=2.0))
    assert capsys.readouterr().err.splitlines()[-1].startswith("10/30 images, 5.0 images/s")


def test_plain_lines_are_ten_seconds_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards may be committed many times a second. The last line comes when it is due."""
    with Progress(40, 0, "plain") as progress:
        began = time.monotonic()
        for now in (began + 1, began + 11, began + 12, began + 13):
            monkeypatch.setattr("time.monotonic", lambda now=now: now)
            progress.add(10, record(started_s_ago=0.5))
    done = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert done == ["40", "20/40", "40/40"]


def test_off_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 0, "off") as progress:
        progress.add(10, record(started_s_ago=1.0))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("style", ["plain", "bar", "off"])
def test_what_workers_have_to_say_is_shown_once(
    style: Style, capsys: pytest.CaptureFixture[str]
) -> None:
    said = replace(record(started_s_ago=1.0), notice="out of memory on [cuda:0] :cat:\x1b[2J")
    with Progress(20, 0, style) as progress:
        progress.add(10, said)
        progress.add(10, said)
    assert capsys.readouterr().err.count(r"out of memory on [cuda:0] :cat:\u001b[2J") == 1


def test_the_bar_shows_images_speed_and_bad_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 0, "bar") as progress:
        progress.add(10, record(started_s_ago=1.0))
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "1 bad" in shown


def test_away_from_a_terminal_auto_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 0, "auto"):
        pass
    assert capsys.readouterr().err == "10 images to label\n"


def test_on_a_terminal_auto_is_a_bar_unless_lines_are_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(10, 0, "auto"):
        pass
    assert "images to label" not in capsys.readouterr().err
    configure("json")
    with Progress(10, 0, "auto"):
        pass
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "10 images to label"


def test_a_closer_look_has_a_line_for_each_shard(capsys: pytest.CaptureFixture[str]) -> None:
    for level, lines in (("info", 0), ("debug", 2)):
        configure("text", level)
        with Progress(20, 0, "off") as progress:
            done = CommitRecord(3, 0.0, {"ok": 9, "rejected": 1}, {"model": 1.23456})
            progress.add(10, done)
            progress.add(10, CommitRecord(4, 0.0, error="disk full"))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines
    assert said == [
        "part-00003.parquet: 9 ok, 1 rejected (model 1.235 s)",
        "part-00004.parquet: disk full",
    ]
