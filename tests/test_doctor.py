"""`afd doctor`: says what is there, what is not, and never dies of it."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from jobs.diagnosis import machine as doctor_machine
from jobs.diagnosis import self_tests
from jobs.diagnosis.check import Check, line
from jobs.diagnosis.machine import check_gpu, check_python, check_shared_memory
from jobs.diagnosis.packages import check_extra, check_package, module_of, package_checks
from jobs.doctor import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
METADATA = BASE + [f'{text}; extra == "{extra}"' for extra in EXTRAS for text in EXTRAS[extra]]


def distribution(requirement: str) -> str:
    return requirement.partition(">")[0].partition("[")[0]


def doctor_without(*modules: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and standard error in a process that cannot import these."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"
    run = "from jobs.doctor import main; sys.exit(main(['--format', 'json']))"
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}\n{run}"], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_python_without_docstrings_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_python().state == "ok"
    monkeypatch.setattr(doctor_machine, "has_docstrings", lambda: False)
    found = check_python()
    assert (found.state, "unset PYTHONOPTIMIZE" in found.found) == ("wrong", True)


@pytest.mark.parametrize(
    ("version", "machine", "state"),
    [
        *(((3, 11, 0), "x86_64", "ok"), ((3, 13, 9), "x86_64", "ok")),
        *(((3, 10, 9), "x86_64", "wrong"), ((3, 14, 0), "x86_64", "wrong")),
        ((3, 12, 1), "aarch64", "wrong"),
    ],
)
def test_what_has_no_wheels_of_turbojpeg_is_told(
    version: tuple[int, ...], machine: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SpecifierSet(PROJECT["requires-python"])
    assert known.contains(".".join(map(str, version))) is (state == "ok" or machine != "x86_64")
    monkeypatch.setattr(doctor_machine.sys, "version_info", version)
    monkeypatch.setattr(doctor_machine.platform, "machine", lambda: machine)
    assert check_python().state == state


def named(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (check for check in document["checks"] if check["name"] == name)
    return dict(found)


def test_labelling_can_run_where_the_tests_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "labelling can run here"
    states = {text[24:33].strip() for text in lines[:-2] if text[:24].strip()}
    assert states <= {"ok", "missing", "wrong"}
    (trial,) = (text for text in lines if text.startswith("decoder self-test"))
    assert "cpu: exact" in trial


def test_a_package_that_does_not_import_is_a_finding() -> None:
    code, document, stderr = doctor_without("nvidia.dali")
    assert (code, document["can_label"]) == (1, False)
    assert "Traceback" not in stderr
    found = named(document, "nvidia-dali-cuda130")
    assert (found["state"], found["required"]) == ("wrong", True)
    assert found["fix"].startswith("pip install --force-reinstall 'nvidia-dali-cuda130>=")
    assert named(document, "decoder self-test")["state"] == "missing"
    assert named(document, "torch")["state"] == "ok"


def test_it_outlives_every_package_but_the_command_lines() -> None:
    names = [name for text in BASE if (name := distribution(text)) != "pyyaml"]
    hidden = [module_of(name) for name in names]
    code, document, stderr = doctor_without(*hidden)
    assert code == 1
    assert "Traceback" not in stderr
    assert named(document, "torch")["state"] == "wrong"
    assert named(document, "shipped AFD weights")["state"] == "missing"
    assert named(document, "Python")["state"] == "ok"


@pytest.mark.parametrize("requirement", BASE)
def test_every_requirement_has_its_module(requirement: str) -> None:
    assert find_spec(module_of(distribution(requirement))) is not None


def test_every_package_and_extra_has_a_line() -> None:
    names = [check.name for check in package_checks(METADATA)]
    expected = [distribution(text) for text in BASE]
    assert names == expected + sorted(f"extra {name}" for name in EXTRAS if name != "dev")


def test_what_is_not_installed() -> None:
    found = check_package("no-such-distribution>=1.2")
    assert (found.state, found.fix) == ("missing", "pip install 'no-such-distribution>=1.2'")
    found = check_extra("s3", ["no-such-distribution>=1", "numpy>=1"])
    assert (found.state, found.found, found.stops) == ("missing", "no-such-distribution", False)
    assert found.fix == "pip install 'afd-label[s3]'"


def test_what_is_too_old() -> None:
    found = check_package("numpy>=99")
    assert (found.state, found.stops) == ("wrong", True)
    assert ">=99 is needed" in found.found
    assert check_extra("demo", ["numpy>=99"]).state == "wrong"


def test_a_decoder_that_is_off_by_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = self_tests.decompress
    monkeypatch.setattr(self_tests, "decompress", lambda data: np.maximum(right(data), 1) - 1)
    found = self_tests.check_decoder()
    assert found.state == "wrong"
    assert "up to 1" in found.found


def test_weights_that_do_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = sorted(self_tests.SHIPPED.glob("*.safetensors"))
    assert self_tests.check_shipped_weights().state == "ok"
    monkeypatch.setattr(self_tests, "SHIPPED", tmp_path)
    assert self_tests.check_shipped_weights().state == "missing"
    (tmp_path / "cut.safetensors").write_bytes(shipped[0].read_bytes()[:-100])
    found = self_tests.check_shipped_weights()
    assert found.state == "wrong"
    assert found.fix is not None
    assert found.fix.endswith(" .")  # no package index has afd-label


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_shared_memory(tmp_path / "none").state == "missing"
    monkeypatch.setattr(doctor_machine, "_MIN_SHARED_MEMORY", 2**60)
    found = check_shared_memory(tmp_path)
    assert (found.state, found.stops) == ("wrong", False)
    assert "--shm-size" in (found.fix or "")


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ("echo 'NVIDIA X, 81559 MiB, 570.1'", "wrong", "1 x NVIDIA X, 81559 MiB, driver 570.1"),
        ("echo 'could not talk to the driver' >&2; exit 9", "wrong", "could not talk"),
    ],
)
def test_a_driver_that_pytorch_cannot_use(
    script: str, state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = check_gpu(None)
    assert (found.state, found.required) == (state, False)
    assert said in found.found


@pytest.mark.gpu
def test_a_gpu_is_found_and_decodes() -> None:
    torch = pytest.importorskip("torch")
    assert check_gpu(torch).state == "ok"
    found = self_tests.check_decoder()
    assert (found.state, found.found.startswith("cpu: exact, cuda: ")) == ("ok", True)


def test_a_machine_without_a_gpu_can_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = check_gpu(None)
    assert (found.state, found.stops) == ("missing", False)


def test_a_line_has_its_command_below() -> None:
    check = Check(name="x", state="missing", found="not installed", fix="pip install 'x>=1'")
    first, second = line(check).splitlines()
    assert first == "missing  not installed"
    assert second == " " * 33 + "fix: pip install 'x>=1'"
