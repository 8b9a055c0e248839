"""A killed process is reported, and only a killed one."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from jobs.log import configure, say
from jobs.watchdog import reported_if_killed
configure(sys.argv[1])
with reported_if_killed("it is gone, é"):
    print("working", flush=True)
    {}
say("ended")
"""


def run(ending: str, log_format: str = "text") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(ending), log_format]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("ending", ["os._exit(1)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_a_killed_process_is_reported(ending: str) -> None:
    done = run(ending)
    assert (done.stdout, done.stderr) == ("working\n", "it is gone, é\n")
    assert done.returncode in (1, -6, -9)


def test_a_log_collector_gets_json() -> None:
    line = json.loads(run("os._exit(1)", "json").stderr)
    assert line["message"] == "it is gone, é"
    assert line["level"] == "error"
    assert line["time"] > "2026"


def test_a_process_that_reports_its_own_end_is_not_reported() -> None:
    assert run("pass").stderr == "ended\n"
    assert run("raise SystemExit(3)").stderr == ""
    failed = run("raise ValueError('no')").stderr
    assert failed.endswith("ValueError: no\n")
    assert "gone" not in failed


def test_it_does_without_its_watchdog() -> None:
    """As when something else kills it."""
    kill = "import psutil; (it,) = psutil.Process().children(); it.kill(); it.wait()"
    assert run(kill).stderr == "ended\n"


def test_ctrl_c_in_a_terminal_does_not_reach_it() -> None:
    """The job reports that itself, and the watchdog would print a traceback."""
    look = "import psutil; (it,) = psutil.Process().children(); print(os.getsid(it.pid), it.pid)"
    session, pid = run(look).stdout.splitlines()[-1].split()
    assert session == pid
