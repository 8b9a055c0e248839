"""How the command ends, as a process: its exit code, and not a word too many."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jobs.exits import print_answer

ROOT = Path(__file__).parents[1]
# Of a job that leaves a thread, and something for the end: libraries do both.
JOB = """
import atexit, os, signal, sys, threading, time, types
import jobs.cli
job = types.ModuleType("jobs.doctor")
def main(arguments):
    {}
    return 0
job.main = main
sys.modules["jobs.doctor"] = job
sys.argv = ["afd", "doctor"]
jobs.cli.command()
"""


def ended(ending: str, closing: str = "") -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'"$@" {closing}', "sh", sys.executable, "-c", JOB.format(ending)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_nothing_comes_after_the_end_of_a_job() -> None:
    """Where a further Ctrl-C would have changed the exit code, and libraries have hung."""
    thread = "threading.Thread(target=time.sleep, args=(60,)).start()"
    callback = "atexit.register(print, 'after the end')"
    done = ended(f"{thread}; {callback}; print('an answer'); return 1")
    assert (done.returncode, done.stdout, done.stderr) == (1, "an answer\n", "")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_files_name_drives_no_terminal(is_terminal: bool) -> None:
    """A pipe gets the name as it is."""
    reader, writer = os.openpty() if is_terminal else os.pipe()
    job = JOB.format(r"print('a\x1b[2J.jpg')")
    subprocess.run([sys.executable, "-c", job], cwd=ROOT, stdout=writer, check=True)
    os.close(writer)
    shown = rb"a\u001b[2J.jpg" if is_terminal else b"a\x1b[2J.jpg"
    assert os.read(reader, 100).rstrip() == shown
    os.close(reader)


def test_a_folder_that_is_gone_is_told_before_a_library_ends_the_process(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    program = f"import os, sys; os.chdir({str(here)!r}); os.rmdir({str(here)!r})\n{JOB}"
    done = subprocess.run(
        [sys.executable, "-c", program.format("pass")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "afd: the current folder has been removed: cd to another one\n"


def test_an_interrupt_while_the_job_is_imported_is_told_in_one_line() -> None:
    """Until Ctrl-C is answered the command does without what takes long to import."""
    slow = {"argparse", "yaml", "importlib.metadata", "concurrent.futures", "logging"}
    code = f"import sys, jobs.cli; print(bool({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_ends_a_job_from_outside_is_told_in_one_line(name: str) -> None:
    done = ended(f"os.kill(os.getpid(), signal.{name}); time.sleep(60)")
    assert (done.returncode, done.stderr) == (1, "afd doctor: interrupted\n")


def test_a_second_signal_adds_no_word_to_what_the_first_is_told_by() -> None:
    """Impatient users send several, and schedulers."""
    signalled = "os.kill(os.getpid(), signal.SIGTERM) or time.sleep(0.3)"
    told = f"say = run.say; run.say = lambda *words, **level: say(*words, **level) or {signalled}"
    job = f"run.run_job('afd doctor', lambda: {signalled})"
    done = ended(f"import jobs.run_job as run; {told}; return {job}")
    assert (done.returncode, done.stderr) == (1, "afd doctor: interrupted\n")


def test_a_job_under_nohup_outlives_its_terminal() -> None:
    command = ["nohup", sys.executable, "-c", JOB.format("os.kill(os.getpid(), signal.SIGHUP)")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30).returncode == 0


def test_an_interrupt_waits_until_a_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import signal, time\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "time.sleep(0.2)\n"
        "print('imported')\n"
    )
    program = "from jobs.exits import import_in_thread; import_in_thread('slow')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "imported\n"  # in the end
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_an_interrupt_while_the_importing_thread_starts_ends_the_process() -> None:
    program = textwrap.dedent("""
        import threading
        from jobs.exits import import_in_thread
        start = threading.Thread.start
        def interrupted(thread):
            start(thread)
            raise KeyboardInterrupt
        threading.Thread.start = interrupted
        import_in_thread("json")
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nowhere(closing: str) -> None:
    """What is opened does not become one of them, and what is said does not end the job."""
    said = "print('an answer'); print('a line', file=sys.stderr)"
    done = ended(f"{said}; return 10 + open(jobs.cli.os.devnull).fileno()", closing)
    assert done.returncode == 10 + 3
    assert done.stdout == ("" if ">&-" in closing.replace("2>&-", "") else "an answer\n")
    assert done.stderr == ("" if "2>&-" in closing else "a line\n")


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    program = "from jobs.exits import print_answer\nfor n in range(3): print_answer(n)\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "latin-1:surrogateescape"])
def test_what_an_encoding_lacks_does_not_lose_the_answer(encoding: str) -> None:
    """An evaluation has taken hours by the time that its table is printed."""
    program = r"from jobs.exits import print_answer; print_answer('\xe9: 0.1 \u2013 0.2')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=environment)
    assert printed == b"\xe9: 0.1 \\u2013 0.2\n"


def test_an_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(Path("a"))
    assert capsys.readouterr() == ("a\n", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_job_does_not_wait_for_a_store(name: str) -> None:
    """A store that accepts and never answers would take minutes, with all attempts."""
    program = f"""
        import socket, threading
        from pipeline.stores import shutdown
        from pipeline.stores.http_transfer import Resource, get
        listener = socket.create_server(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d/" % listener.getsockname()[1]
        resource = Resource(url, lambda *_: dict(), "web")
        thread = threading.Thread(target=lambda: get(resource))
        thread.start()
        held = listener.accept()
        shutdown._MAX_REQUEST_S = 0.2
        try:
            signal.raise_signal(signal.{name})
        except KeyboardInterrupt:
            thread.join()
            print("interrupted")
    """
    began = time.monotonic()
    done = ended(textwrap.dedent(program).replace("\n", "\n    "))
    assert done.stdout == "interrupted\n"
    assert "ShutdownError: " in done.stderr
    assert time.monotonic() - began < 15  # start-up included; else half a minute
