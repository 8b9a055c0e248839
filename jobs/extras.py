"""Checks that the optional packages of a job are installed."""

from __future__ import annotations

from importlib.util import find_spec


def require(extra: str, *modules: str) -> None:
    """Raise ValueError with the command that installs an extra if one of its modules is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed: pip install 'afd-label[{extra}]'")
