"""How the command ends, as a process: its exit code, and not a word too many."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.exits import answer

ROOT = Path(__file__).parents[1]
# Of a job that leaves a thread, and something for the end: libraries do both.
JOB = """
import atexit, signal, sys, threading, time, types
import jobs.cli
job = types.ModuleType("jobs.doctor")
def main(arguments):
    {}
    return 0
job.main = main
sys.modules["jobs.doctor"] = job
sys.argv = ["afd", "doctor"]
sys.exit(jobs.cli.command())
"""


def started(ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB.format(ending)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "ending",
    [
        # While threads are waited for; then in the callbacks of libraries.
        "threading.Thread(target=lambda: (print('over', flush=True), time.sleep(60))).start()",
        "atexit.register(lambda: (print('over', flush=True), time.sleep(0.5)))",
    ],
)
def test_a_signal_after_the_end_does_not_change_it(ending: str, number: signal.Signals) -> None:
    with started(ending) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "over\n"
        time.sleep(0.1)  # the callback is called within the first tenth
        job.send_signal(number)
        assert job.communicate(timeout=30) == ("", "")
    assert job.returncode == 0


def test_an_interrupt_while_the_job_is_imported_is_told_in_one_line() -> None:
    """The libraries of the command line take half a second: the command does without them."""
    code = "import sys, jobs.cli; print('jsonargparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_an_interrupt_waits_until_a_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import signal, time\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "time.sleep(0.2)\n"
        "print('imported')\n"
    )
    program = "from jobs.exits import imported; imported('slow')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "imported\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_what_is_opened_does_not_become_a_closed_stream() -> None:
    number = "sys.exit(10 + open(__import__('os').devnull).fileno())"
    for closing in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'"$@" {closing}', "sh", sys.executable, "-c", JOB.format(number)]
        assert subprocess.run(command, cwd=ROOT).returncode == 10 + 3


def test_a_command_without_streams_does_its_work() -> None:
    working = "print('an answer'); sys.stdout.flush(); print('a line', file=sys.stderr)"
    for closing in (">&-", "2>&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'"$@" {closing}', "sh", sys.executable, "-c", JOB.format(working)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout == ("an answer\n" if closing == "2>&-" else "")


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    program = "from jobs.exits import answer\nfor n in range(3): answer(n)\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    answer(Path("a"))
    assert capsys.readouterr() == ("a\n", "")
