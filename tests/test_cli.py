"""`afd JOB`: finds the job, or says which one was meant."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from jobs.cli import JOBS, main


def test_without_a_job_the_jobs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(name in listed for name in JOBS)
    assert main(["--help"]) == 0


def test_an_unknown_job_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lable"]) == 2
    assert "unknown job 'lable' (did you mean label?)" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"afd-label {version('afd-label')}\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["completion", "bash"], ["doctor", "--print-config"]]
)
def test_an_answer_that_finds_no_room_is_told_in_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "afd: [Errno 28] No space left on device\n"


def test_help_and_bad_usage_need_not_wait_for_pytorch() -> None:
    """One process for all jobs: what one of them imports, the next has imported too."""
    script = """
import sys, jobs.cli
for name in jobs.cli.JOBS:
    for flag, code in (("--help", 0), ("--bogus", 2)):
        try:
            jobs.cli.main([name, flag])
        except SystemExit as end:
            assert end.code == code, (name, flag, end.code)
        else:
            assert False, (name, flag)
        assert "torch" not in sys.modules, (name, flag)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    assert f"usage: afd {name}" in capsys.readouterr().out


def test_an_interrupted_job_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.doctor.main", interrupted)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "afd doctor: interrupted\n"
    monkeypatch.setattr("jobs.label.label", interrupted)
    assert main(["label", "photos", "--output", "out"]) == 1
    assert "afd label: interrupted; the same command continues the run" in capsys.readouterr().err
    monkeypatch.setattr("jobs.label.dry_run", interrupted)
    assert main(["label", "photos", "--output", "out", "--dry-run"]) == 1
    assert capsys.readouterr().err == "afd label: interrupted\n"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [(None, "", "10000"), ("GOMP_SPINCOUNT", "5", "5"), ("OMP_WAIT_POLICY", "active", None)],
)
def test_threads_that_wait_spin_briefly_unless_the_user_says_otherwise(
    name: str | None, value: str, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {} if name is None else {name: value})
    monkeypatch.setattr("jobs.doctor.main", lambda _: 0)
    assert main(["doctor"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == told
    assert os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] == "."


def test_a_user_without_a_home_has_one_for_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container with a user of its own; Altair asks for it while it is imported."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setenv("HOME", "set, so that it is set again")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("jobs.doctor.main", lambda _: print(Path.home()))
    main(["doctor"])
    assert capsys.readouterr().out == "/\n"


def test_a_python_without_docstrings_is_told_what_it_lacks() -> None:
    """DALI extends its own while it is imported."""
    command = [sys.executable, "-OO", "-m", "jobs.cli", "label"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("afd: DALI needs docstrings: unset PYTHONOPTIMIZE")
    assert done.stderr.count("\n") == 1


def test_a_missing_package_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith(("jobs.compress", "turbojpeg"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "pipeline.degrade", raising=False)
    monkeypatch.setitem(sys.modules, "turbojpeg", None)
    assert main(["compress", "photos", "--output", "out"]) == 1
    told = capsys.readouterr().err
    assert "turbojpeg" in told
    assert "afd doctor" in told
    assert told.count("\n") == 1
