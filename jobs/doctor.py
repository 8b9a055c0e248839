"""`afd doctor`: checks what labelling needs, and prints the command that fixes what is missing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from typing import Any, Literal

from jobs.checked_settings import CheckedSettings
from jobs.command_line import parse
from jobs.diagnosis.check import NAME_WIDTH, Check, line
from jobs.diagnosis.machine import (
    check_cpu,
    check_gpu,
    check_memory,
    check_python,
    check_shared_memory,
)
from jobs.diagnosis.packages import PACKAGE, installed_requirements, package_checks
from jobs.exits import EXIT_COMPLETE, EXIT_FAILED, print_answer
from jobs.settings import setting
from pipeline.error_text import named

_SELF_TESTS = {
    "decoder self-test": "check_decoder",
    "shipped AFD weights": "check_shipped_weights",
}


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(CheckedSettings):
    """Check whether labelling can run here, and print how to fix what is missing."""

    format: Literal["table", "json"] = setting("table", "one line per check, or one JSON document")


def doctor() -> Iterator[Check]:
    """Every check, in order, as soon as it is made. No check raises; it reports its error."""
    yield from (check_python(), check_cpu(), check_memory(), check_shared_memory())
    try:
        requirements = installed_requirements()
    except PackageNotFoundError:
        requirements = ()
        yield Check(
            name=PACKAGE,
            state="missing",
            found="not installed, but run from its source: its requirements are not known",
            fix="pip install --editable .",
        )
    yield from package_checks(requirements)
    yield check_gpu(_torch())
    for name, function in _SELF_TESTS.items():
        yield _self_test(name, function)


def _torch() -> Any | None:
    try:
        return importlib.import_module("torch")
    except Exception:  # reported by torch's own check
        return None


def _self_test(name: str, function: str) -> Check:
    try:
        self_tests = importlib.import_module("jobs.diagnosis.self_tests")
        check: Callable[[], Check] = getattr(self_tests, function)
        return check()
    except ImportError as error:  # the check of that package says how to fix it
        return Check(name=name, state="missing", found=f"not run: {error}")
    except Exception as error:  # whatever a decoder raises, the other findings still count
        return Check(name=name, state="wrong", found=named(error))


def _table(checks: Iterator[Check]) -> list[Check]:
    """Print a line for each check as soon as it is made, then the result; returns the checks.

    So if a library kills the process, the check after the last line shows which one.
    """
    found = []
    for check in checks:
        print_answer(f"{check.name:<{NAME_WIDTH}}{line(check)}")
        found.append(check)
    stops = [check.name for check in found if check.stops]
    verdict = f"cannot run here: {', '.join(stops)}" if stops else "can run here"
    print_answer(f"\nlabelling {verdict}")
    return found


def _json(checks: Iterator[Check]) -> list[Check]:
    found = list(checks)
    can_label = not any(check.stops for check in found)
    document = {"can_label": can_label, "checks": [asdict(check) for check in found]}
    print_answer(json.dumps(document, indent=2))
    return found


def main(arguments: Sequence[str]) -> int:
    """`afd doctor`: exit code 0 when labelling can run here, 1 when it cannot, 2 for bad usage."""
    settings = parse(DoctorSettings, arguments, prog="afd doctor")
    write = _json if settings.format == "json" else _table
    stopped = any(check.stops for check in write(doctor()))
    return EXIT_FAILED if stopped else EXIT_COMPLETE
