"""Checks of the packages: the requirements of afd-label against what is installed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from jobs.diagnosis.check import Check
from pipeline.error_text import named

PACKAGE = "afd-label"
# required distribution -> module, when their names differ.
_MODULES = {
    "nvidia-dali-cuda130": "nvidia.dali",
    "nvidia-nvimgcodec-cu13": "nvidia.nvimgcodec",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
_DEVELOPMENT = "dev"  # an extra that no command needs
_EXTRA = re.compile(r"""extra == ["'](\S+)["']""")
_NAME = re.compile(r"[\w.-]+")


def module_of(distribution: str) -> str:
    return _MODULES.get(distribution, distribution.replace("-", "_"))


def installed_requirements() -> Sequence[str]:
    """The requirements of the installed afd-label, as its metadata spells them."""
    return requires(PACKAGE) or ()


def package_checks(requirements: Sequence[str]) -> Iterator[Check]:
    """One check per required package, then one per extra; made while the result is iterated."""
    for text in requirements:
        if not _EXTRA.search(text):
            yield check_package(text)
    for extra in sorted(_extras(requirements) - {_DEVELOPMENT}):
        yield check_extra(extra, _needed_by(extra, requirements))


def check_package(requirement: str) -> Check:
    """Whether a package is installed, is new enough and can be imported.

    requirement: such as "torch>=2.11".
    """
    text = requirement.partition(";")[0].strip()
    name = _distribution(text)
    found, problem = _version(text)
    if found is None:
        return Check(name=name, state="missing", found=problem, fix=f"pip install '{text}'")
    if problem:
        return Check(name=name, state="wrong", found=problem, fix=f"pip install '{text}'")
    try:
        module = importlib.import_module(module_of(name))
    except Exception as error:  # libraries raise errors of all kinds on a system they do not fit
        return Check(
            name=name,
            state="wrong",
            found=f"{found} is installed, but cannot be imported: {named(error)}",
            fix=f"pip install --force-reinstall '{text}'",
        )
    return Check(name=name, state="ok", found=f"{found}{_build(name, module)}")


def check_extra(extra: str, needed: Sequence[str]) -> Check:
    """An extra's packages, by version only: importing all of them would take seconds."""
    title, fix = f"extra {extra}", f"pip install '{PACKAGE}[{extra}]'"
    versions = {text: _version(text) for text in needed}
    if missing := [_distribution(text) for text, (found, _) in versions.items() if found is None]:
        return Check(name=title, state="missing", found=", ".join(missing), required=False, fix=fix)
    if old := [problem for _, problem in versions.values() if problem]:
        return Check(name=title, state="wrong", found="; ".join(old), required=False, fix=fix)
    found = ", ".join(f"{_distribution(text)} {found}" for text, (found, _) in versions.items())
    return Check(name=title, state="ok", found=found, required=False)


def _version(requirement: str) -> tuple[str | None, str]:
    """(the installed version or None, what is wrong with it or "")."""
    name = _distribution(requirement)
    try:
        found = version(name)
    except PackageNotFoundError:
        return None, "not installed"
    try:
        from packaging.requirements import Requirement
    except ImportError:  # it is a requirement itself, and so checked
        return found, ""
    wanted = Requirement(requirement).specifier
    if wanted.contains(found, prereleases=True):
        return found, ""
    return found, f"{name} {found} is installed, but {wanted} is needed"


def _build(name: str, module: Any) -> str:
    if name != "torch":
        return ""
    return f", built for CUDA {module.version.cuda}" if module.version.cuda else ", without CUDA"


def _distribution(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None
    return match[0]


def _extras(requirements: Sequence[str]) -> set[str]:
    return {match[1] for text in requirements if (match := _EXTRA.search(text))}


def _needed_by(extra: str, requirements: Sequence[str]) -> list[str]:
    """An extra's requirements, including those of the extras that it refers to."""
    needed: list[str] = []
    for text in requirements:
        if (match := _EXTRA.search(text)) and match[1] == extra:
            plain = text.partition(";")[0].strip()
            if _distribution(plain) == PACKAGE:
                for other in plain.partition("[")[2].rstrip("]").split(","):
                    needed += _needed_by(other.strip(), requirements)
            else:
                needed.append(plain)
    return needed
