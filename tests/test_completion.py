"""`afd completion`: real shells complete by it, and it knows every job and every flag."""

import dataclasses
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cli import JOBS
from jobs.cli import main as afd
from jobs.completion import PATHS, main, script

_PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "afd.bash"
    path.write_text(script("bash"))
    return path


def completed(bash_script: Path, *words: str, folder: Path | None = None) -> set[str]:
    """What bash offers for the last of the words, by the function that the script registers."""
    program = f"""
        source {bash_script}
        [[ $(complete -p afd) =~ -F\\ ([^ ]+) ]]
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        ${{BASH_REMATCH[1]}} afd "${{@: -1}}" "${{@: -2:1}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = ["bash", "--norc", "-c", program, "bash", "afd", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.stderr == ""
    return {word.strip() for word in done.stdout.split()}


def test_jobs(bash_script: Path) -> None:
    assert completed(bash_script, "") == set(JOBS)
    assert completed(bash_script, "re") == {"report"}


def test_flags(bash_script: Path) -> None:
    assert completed(bash_script, "label", "--batch") == {"--batch-size"}
    assert completed(bash_script, "label", "--ver") == {"--verify"}
    assert completed(bash_script, "label", "--no-ver") == {"--no-verify"}
    assert completed(bash_script, "sql", "--conf") == {"--config"}


def test_values(bash_script: Path) -> None:
    assert completed(bash_script, "label", "--integrity", "") == {"off", "fast", "full"}
    assert completed(bash_script, "completion", "z") == {"zsh"}
    assert completed(bash_script, "benchmark", "--workers", "") == {"auto"}
    assert completed(bash_script, "evaluate", "--protocol", "i") == {"imagenet-c"}


def test_files(bash_script: Path, tmp_path: Path) -> None:
    for name in ("photos", "other"):
        (tmp_path / name).mkdir()
    assert "photos" in {
        w.rstrip("/") for w in completed(bash_script, "label", "ph", folder=tmp_path)
    }
    found = completed(bash_script, "label", "--output", "ot", folder=tmp_path)
    assert {word.rstrip("/") for word in found} == {"other"}
    (tmp_path / "label.yaml").touch()
    assert completed(bash_script, "label", "--config", "la", folder=tmp_path) == {"label.yaml"}


def test_an_interactive_bash_completes_a_line(bash_script: Path) -> None:
    """A terminal, a person's keys, and the command that bash then runs."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", PS1="> ")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(terminal, f"source {bash_script}; afd() {{ echo ran:$1:$2:; }}\n".encode())
        os.write(terminal, b"afd expl\t--stem\t\n")
        assert b"ran:explain:--stem-layer:" in read_until(terminal, b"ran:explain:--stem-layer:")
        os.write(terminal, b"exit\n")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def read_until(terminal: int, expected: bytes) -> bytes:
    seen, until = b"", time.monotonic() + _PATIENCE_S
    while expected not in seen and time.monotonic() < until:
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 4096)
    return seen


def test_zsh_takes_its_script(tmp_path: Path) -> None:
    text = script("zsh")
    assert text.startswith("#compdef afd")
    assert all(f'"{job}:' in text or f"{job})" in text for job in JOBS)
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed: its script was made, and not run")
    (tmp_path / "_afd").write_text(text)
    subprocess.run(["zsh", "-n", str(tmp_path / "_afd")], check=True)


def test_every_job_is_completed_with_the_flags_of_its_help(
    bash_script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in JOBS:
        with pytest.raises(SystemExit):
            afd([job, "--help"])
        in_help = set(
            re.findall(r"(?<![\w`'-])--[a-z][\w-]+", capsys.readouterr().out.split("\n\n")[0])
        )
        assert in_help <= completed(bash_script, job, "--") | {"--help"}, job


def test_what_is_completed_as_a_path_is_a_setting() -> None:
    fields = {
        field.name for job in JOBS.values() for field in dataclasses.fields(job.settings_class())
    }
    assert fields | {"config"} >= PATHS


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["fish"])
    assert exit_info.value.code == 2
    assert "one of: bash, zsh" in capsys.readouterr().err


@pytest.mark.parametrize("buffered", ["", "1"])  # the pipe breaks at the end, or while it prints
def test_a_reader_that_has_seen_enough(buffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jobs.cli", "completion", "bash"]
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
