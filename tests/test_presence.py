"""Drivers see each other while they live, and not after, however they ended."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from servers import Bucket, Proxy

from pipeline.output import OutputFolder
from pipeline.presence import DRIVERS, Driver, Presence

OTHER, THIRD = "a" * 32, "b" * 32  # drivers' names


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    return OutputFolder(str(tmp_path))


def test_drivers_see_each_other_while_they_are_there(output: OutputFolder) -> None:
    with Presence(output) as first:
        assert first.others() == []
        assert first.leads()
        with Presence(output) as second:
            [other] = second.others()
            assert (other.name, other.pid) == (first.name, os.getpid())
            assert [driver.name for driver in first.others()] == [second.name]
            assert first.leads()
            assert not second.leads()
        assert first.others() == []
    assert list(output.path.iterdir()) == []


def test_drivers_see_each_other_in_a_bucket(s3: Bucket) -> None:
    output = OutputFolder(f"{s3.url}/run")
    with Presence(output) as first:
        with Presence(output) as second:
            [other] = second.others()
            assert (other.name, other.pid) == (first.name, os.getpid())
            assert first.leads()
            assert not second.leads()
        gone = {"since": time.time() - 60, "host": "node-7.example", "pid": 1, "name": OTHER}
        output.write(f"{DRIVERS}/{OTHER}.json", json.dumps(gone).encode())
        assert [driver.name for driver in first.others()] == [OTHER]
        time.sleep(2.1)  # S3's dates have whole seconds
        assert first.others(silent_s=1.0) == []
    assert output.modification_times(DRIVERS) == {}


def test_exactly_one_of_many_leads(output: OutputFolder) -> None:
    start, leaders = threading.Barrier(8), []

    def drive() -> None:
        with Presence(output) as presence:
            start.wait()
            if presence.leads():
                leaders.append(presence.name)
            start.wait()

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leaders) == 1


def test_a_driver_with_a_slow_clock_does_not_take_the_lead(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts' clocks may differ by more than it takes to list a collection."""
    with Presence(output) as first:
        clock = time.time
        monkeypatch.setattr("pipeline.presence.time.time", lambda: clock() - 3600)
        with Presence(output) as second, Presence(output) as third:
            assert [driver.leads() for driver in (first, second, third)] == [True, False, False]


def test_a_killed_driver_of_this_host_is_gone_at_once(output: OutputFolder) -> None:
    code = """
import os, sys
from pipeline.output import OutputFolder
from pipeline.presence import Presence
with Presence(OutputFolder(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(output.path)], check=False)
    [left] = (output.path / DRIVERS).iterdir()
    with Presence(output) as presence:
        assert presence.others() == []
        assert not left.exists()


def test_a_driver_from_before_the_clock_was_set_is_there_and_one_whose_pid_is_reused_is_not(
    output: OutputFolder,
) -> None:
    with Presence(output) as presence:
        [own] = (output.path / DRIVERS).iterdir()
        driver = json.loads(own.read_text()) | {"name": OTHER}
        assert driver["start_ticks"] > 0
        driver["since"] -= 3600  # the process began an hour later, by the clock as it is now
        sign = output.path / DRIVERS / f"{OTHER}.json"
        sign.write_text(json.dumps(driver))
        assert [other.name for other in presence.others()] == [OTHER]
        sign.write_text(json.dumps(driver | {"start_ticks": driver["start_ticks"] - 1}))
        assert presence.others() == []
        del driver["start_ticks"]  # of an earlier release
        sign.write_text(json.dumps(driver))
        assert [other.name for other in presence.others()] == [OTHER]


def test_a_driver_that_ended_and_whose_parent_does_not_ask_is_gone(output: OutputFolder) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with Presence(output) as presence:
        [own] = (output.path / DRIVERS).iterdir()
        driver = json.loads(own.read_text()) | {"pid": ended.pid, "name": OTHER}
        (output.path / DRIVERS / f"{OTHER}.json").write_text(json.dumps(driver))
        assert presence.others() == []
    ended.wait()


def test_a_driver_in_another_container_is_not_looked_for_among_the_processes_here(
    output: OutputFolder,
) -> None:
    """Containers on the host's network share its name, and each has a process 1."""
    with Presence(output) as presence:
        for namespace, name in (("another boot pid:[1]", OTHER), ("", THIRD)):
            driver = Driver(time.time(), socket.gethostname(), 2**22 + 1, name, namespace)
            (output.path / DRIVERS / f"{name}.json").write_text(json.dumps(asdict(driver)))
        assert sorted(driver.name for driver in presence.others()) == [OTHER, THIRD]


def test_a_driver_taken_for_dead_shows_itself_again(output: OutputFolder) -> None:
    with Presence(output, refresh_s=0.05) as stopped, Presence(output) as other:
        (output.path / DRIVERS / f"{stopped.name}.json").unlink()
        deadline = time.monotonic() + 10
        while not other.others() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [driver.name for driver in other.others()] == [stopped.name]
        (output.path / DRIVERS / f"{other.name}.json").unlink()
        assert other.others()  # a look around shows the one who looks
        assert [driver.name for driver in stopped.others()] == [other.name]


def test_a_refresh_that_fails_is_not_the_last(output: OutputFolder) -> None:
    folder = output.path / DRIVERS
    with Presence(output, refresh_s=0.02) as presence:
        folder.rename(output.path / "away")
        folder.touch()  # where a folder is needed: as a store that fails for a while
        time.sleep(0.2)
        folder.unlink()
        deadline = time.monotonic() + 10
        while not folder.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [path.stem for path in folder.iterdir()] == [presence.name]


def test_credentials_that_expire_are_not_told_by_the_heartbeat(s3: Bucket, proxy: Proxy) -> None:
    """The run's own error is the one to tell."""
    refusals = ["403:ExpiredToken"] * 1000
    with Presence(OutputFolder(f"{s3.url}/run"), refresh_s=0.01):
        proxy.faults[""] = refusals
        deadline = time.monotonic() + 10
        while len(refusals) > 998 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(refusals) <= 998  # after the first, it went on


def test_a_refresh_does_not_make_an_output_again_that_is_gone(tmp_path: Path) -> None:
    """Its disk may be unmounted, and the heartbeat would be on another one."""
    output = OutputFolder(str(tmp_path / "out"))
    output.create()
    with Presence(output, refresh_s=0.02):
        output.path.rename(tmp_path / "moved")
        time.sleep(0.2)
        assert not output.path.exists()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_driver_that_proc_hides_lives(
    error: type[OSError], output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's with the mount option hidepid, by which its files do not exist.

    Such a process takes no signal from here.
    """

    def hidden(pid: int) -> tuple[str, int]:
        raise error(f"/proc/{pid}/stat")

    def refuse(*_: int) -> None:
        raise PermissionError

    with Presence(output) as first, Presence(output) as second:
        monkeypatch.setattr("pipeline.presence._state_and_start_ticks", hidden)
        assert [driver.name for driver in second.others()] == [first.name]
        monkeypatch.setattr("os.kill", refuse)
        assert [driver.name for driver in second.others()] == [first.name]


def test_a_driver_elsewhere_is_gone_when_it_is_silent(output: OutputFolder) -> None:
    elsewhere = {"since": time.time() - 60, "host": "node-7.example", "pid": 1, "name": OTHER}
    with Presence(output) as presence:
        sign = output.path / DRIVERS / f"{OTHER}.json"
        sign.write_text(json.dumps(elsewhere))
        assert not presence.leads()
        [other] = presence.others()
        assert str(other).startswith("process 1 on node-7.example, since 20")
        os.utime(sign, (time.time() - 40, time.time() - 40))
        assert presence.leads()
        assert not sign.exists()


def test_a_driver_elsewhere_is_gone_when_its_sign_is_of_the_future(output: OutputFolder) -> None:
    """As the clock of the storage was set back since: it would take an hour to catch up."""
    elsewhere = {"since": time.time() - 60, "host": "node-7.example", "pid": 1, "name": OTHER}
    with Presence(output) as presence:
        sign = output.path / DRIVERS / f"{OTHER}.json"
        sign.write_text(json.dumps(elsewhere))
        os.utime(sign, (time.time() + 3600, time.time() + 3600))
        assert presence.leads()
        assert not sign.exists()


def test_a_driver_that_lives_is_never_silent(output: OutputFolder) -> None:
    with Presence(output, refresh_s=0.02) as first, Presence(output) as second:
        for _ in range(10):
            time.sleep(0.05)
            assert [driver.name for driver in second.others(silent_s=0.3)] == [first.name]


def test_a_sign_that_is_being_written_does_not_matter(output: OutputFolder) -> None:
    with Presence(output) as presence:
        for content in (b"", b'{"since": 1', b"[]", b'{"since": 1}'):
            (output.path / DRIVERS / f"{OTHER}.json").write_bytes(content)
            assert presence.others() == []
        (output.path / DRIVERS / f"{OTHER}.json").unlink()


def test_a_sign_that_was_never_written_whole_does_not_stay(output: OutputFolder) -> None:
    """As of a driver that a full disk ended."""
    with Presence(output) as presence:
        half = output.path / DRIVERS / f"{OTHER}.json"
        half.touch()
        os.utime(half, (0, 0))
        assert presence.others() == []
    assert list(output.path.iterdir()) == []


def test_what_is_no_heartbeat_stays(output: OutputFolder, tmp_path: Path) -> None:
    """The folder of the heartbeats may be a link, in a folder that a stranger packed."""
    other = tmp_path / "other"
    (other / "below.json").mkdir(parents=True)
    notes = other / "notes.json"
    notes.touch()
    os.utime(notes, (0, 0))
    (output.path / DRIVERS).symlink_to(other)
    with Presence(output) as presence:
        assert presence.others() == []
    assert sorted(other.iterdir()) == [other / "below.json", notes]
