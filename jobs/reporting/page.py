"""Renders the report as one HTML file that needs no other file and no network.

Its content security policy (CSP) allows only the scripts and styles with the hashes of those in
the page, and embedded pictures. So text from an input that looks like a script cannot run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs import quantities
from jobs.reporting.vega_lite import Chart

_HERE = Path(__file__).parent
_TEMPLATE, _STYLE, _SCRIPT = "page.html", "page.css", "page.js"


def render(context: dict[str, Any], charts: Sequence[Chart]) -> str:
    """The page. charts: all charts that the template shows. context: its other variables."""
    style = (_HERE / _STYLE).read_text(encoding="utf-8")
    scripts = [
        _vega(),
        _script_text((_HERE / _SCRIPT).read_text(encoding="utf-8")),
    ]
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_allowed(style)}",
            f"script-src {' '.join(_allowed(script) for script in scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "percent", "decimal", "degrees"):
        environment.filters[name] = getattr(quantities, name)
    specs = {chart.name: chart.spec for chart in charts}
    return environment.get_template(_TEMPLATE).render(
        **context,
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        specs=Markup(json.dumps(specs, separators=(",", ":")).replace("<", r"\u003c")),
    )


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed from vl-convert. Cached, because bundling them is slow."""
    return _script_text(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub's fault


def _script_text(script: str) -> str:
    r"""JavaScript without `</script>`, which would end its element: `<` becomes `\x3c`.

    Such sequences occur only in strings, where both mean the same.
    """
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def _allowed(inline: str) -> str:
    """The CSP source that allows an inline script or style with exactly this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
