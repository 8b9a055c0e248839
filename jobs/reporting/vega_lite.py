"""Draws the report's charts as Vega-Lite specifications, with Altair.

Colours are CSS variables of the page (`var(--accent)`), so that a chart fits the light, dark and
print styles. Its width is that of the page.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from jobs.reporting.queries import Row
from jobs.reporting.statistics import BAND_WIDTH

HEIGHT = 230  # pixels
TALL = 320
FEW = 20  # a share of fewer is drawn pale
_PALE = 0.4
_MANY = 10_000  # from here on, an axis counts in thousands
_ACCENT, _WARN = "var(--accent)", "var(--warn)"
_SEQUENCE = [f"var(--seq-{k})" for k in range(1, 8)]  # from few to many
_DENSITY_STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]  # most cells have a small share
_STEP_NAMES = ["under 1%", "1–2%", "2–5%", "5–10%", "10–20%", "20–40%", "40% and over"]
QUARTILES = ("low", "median", "high")
_NARROW = 400  # pixels; on a phone, a chart's legend is one below the other
_CATEGORIES = [f"var(--cat-{k})" for k in range(1, 6)]
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {
        "orient": "top",
        "columns": 3,
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, and its figures as a table for readers who cannot see it.

    name: its id within the page. spec: in Vega-Lite.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def finished(chart: alt.TopLevelMixin, height: int = HEIGHT) -> dict[str, Any]:
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {**spec, "config": _CONFIG, "autosize": {"type": "fit-x", "contains": "padding"}}


def histogram(
    rows: Sequence[Row], title: str, *, domain: tuple[float, float], warn_below: float | None = None
) -> dict[str, Any]:
    """rows: {"from", "to", "images"}. Bars up to `warn_below` have another colour."""
    color: Any = alt.value(_ACCENT)
    if warn_below is not None:
        # Plus a little, because of rounding errors in a bin's end.
        color = alt.condition(f"datum.to < {warn_below} + 1e-9", alt.value(_WARN), color)
    x = alt.X("from:Q", title=title, bin="binned", scale=alt.Scale(domain=list(domain), nice=False))
    bars = _chart(rows).mark_bar(binSpacing=0.5)
    return finished(
        bars.encode(x=x, x2="to:Q", y=_images(rows), color=color, tooltip=_tips(rows, images=","))
    )


def bars(rows: Sequence[Row]) -> dict[str, Any]:
    """rows: {"name", "images", "share"}; horizontal bars in the order of the rows."""
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=140, ticks=False))
    x = alt.X("share:Q", title="share of the images", axis=alt.Axis(format="%", tickCount=5))
    drawn = _chart(rows).mark_bar(color=_ACCENT, height={"band": 0.7})
    return finished(
        drawn.encode(x=x, y=y, tooltip=_tips(rows, images=",", share=".2%")), 30 * len(rows) + 20
    )


def bars_by_quality(rows: Sequence[Row], title: str, *, warn: bool = False) -> dict[str, Any]:
    """rows: {"quality", "from", "to", "images", "share"}; shares from 0 to 1, pale where of FEW."""
    opacity = alt.condition(f"datum.images < {FEW}", alt.value(_PALE), alt.value(1))
    y = alt.Y("share:Q", title=title, axis=alt.Axis(format="%", tickCount=5))
    drawn = _chart(rows).mark_bar(color=_WARN if warn else _ACCENT, binSpacing=1)
    return finished(
        drawn.encode(
            x=_quality("from:Q", bin="binned"),
            x2="to:Q",
            y=y,
            opacity=opacity,
            tooltip=_tips(rows, images=",", share=".1%"),
        )
    )


def confidence_by_quality(rows: Sequence[Row]) -> dict[str, Any]:
    """rows: {"quality", "middle", "images", "low", "median", "high"}; quartiles from 0 to 1."""
    title, scale = "confidence", alt.Scale(domain=[0, 1])
    base = _chart(_with_gaps(rows, QUARTILES)).encode(x=_quality("middle:Q"))
    band = base.mark_area(color=_ACCENT, opacity=0.25).encode(
        y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"
    )
    line = base.mark_line(color=_ACCENT, point=_points(_ACCENT), strokeWidth=2.5).encode(
        y=alt.Y("median:Q", title=title, scale=scale),
        tooltip=_tips(rows, low=".2f", median=".2f", high=".2f", images=","),
    )
    return finished(alt.layer(band, line))


def drift_by_quality(cells: Sequence[Row], medians: Sequence[Row]) -> dict[str, Any]:
    """cells: {"quality", "from", "to", "low", "high", "share"}.

    medians: as the rows of `confidence_by_quality`.
    """
    scale = alt.Scale(domain=_STEP_NAMES, range=_SEQUENCE)
    legend = alt.Legend(
        title="share of the band's images",
        symbolType="square",
        columns=alt.ExprRef(f"width < {_NARROW} ? 3 : {len(_STEP_NAMES)}"),
    )
    stepped = [{**c, "step": _STEP_NAMES[bisect(_DENSITY_STEPS, c["share"])]} for c in cells]
    rectangles = (
        _chart(stepped)
        .mark_rect()
        .encode(
            x=_quality("from:Q", bin="binned"),
            x2="to:Q",
            y=alt.Y("low:Q", title="drift angle, degrees", bin="binned"),
            y2="high:Q",
            color=alt.Color("step:O", scale=scale, legend=legend),
            tooltip=_tips(cells, low=".4~g", high=".4~g", share=".1%"),
        )
    )
    line = _chart(_with_gaps(medians, QUARTILES)).encode(x="middle:Q", y="median:Q")
    halo = line.mark_line(color="var(--card)", strokeWidth=6)
    median = line.mark_line(color=_WARN, strokeWidth=2.5, point=_points(_WARN)).encode(
        tooltip=_tips(medians, median=".2f", images=",")
    )
    return finished(alt.layer(rectangles, halo, median), TALL)


def lines(rows: Sequence[Row], title: str, *, share: bool) -> dict[str, Any]:
    """rows: {"quality", "middle", "series", "value"}, one series after the other, by quality.

    The series differ in colour and in dashes; the first one in the rows is solid. share: the values
    are shares, from 0 to 1.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    legend = alt.Legend(
        title=None,
        symbolType="stroke",
        symbolStrokeWidth=2.5,
        symbolSize=500,
        labelLimit=260,
        columns=alt.ExprRef(f"width < {_NARROW} ? 1 : 2"),
    )
    color = alt.Color(
        "series:N", scale=alt.Scale(domain=names, range=[_ACCENT, _WARN]), legend=legend
    )
    dash = alt.StrokeDash(
        "series:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 4]]), legend=legend
    )
    axis = alt.Axis(format="%" if share else ".2~f", tickCount=5)  # as many decimals as it takes
    drawn = (
        _chart(_with_gaps(rows, ["value"]))
        .mark_line(strokeWidth=2.5, point={"filled": True, "size": 36})
        .encode(
            x=_quality("middle:Q"),
            y=alt.Y("value:Q", title=title, axis=axis),
            color=color,
            strokeDash=dash,
            tooltip=_tips(rows, value=".1%" if share else ".2f"),
        )
    )
    return finished(drawn)


def speed_over_time(rows: Sequence[Row], unit: str) -> dict[str, Any]:
    """rows: {"from", "to", "images_per_s"}, times in `unit` of work."""
    y = alt.Y("images_per_s:Q", title="images/s", axis=alt.Axis(format="~s", tickCount=5))
    drawn = _chart(rows).mark_bar(color=_ACCENT, binSpacing=0.5)
    tooltip = _tips(rows, **{"from": ".2~f", "to": ".2~f", "images_per_s": ",.1f"})
    return finished(drawn.encode(x=_time(unit), x2="to:Q", y=y, tooltip=tooltip))


def shares_over_time(rows: Sequence[Row], names: Sequence[str], unit: str) -> dict[str, Any]:
    """rows: {"from", "to", "stage", "position", "share"}; stacked in the order of `names`."""
    scale = alt.Scale(domain=list(names), range=_CATEGORIES[: len(names)])
    axis = alt.Axis(format="%", tickCount=5)
    y = alt.Y("share:Q", title="share of the workers' time", stack="normalize", axis=axis)
    return finished(
        _chart(rows)
        .mark_bar(binSpacing=0.5)
        .encode(
            x=_time(unit),
            x2="to:Q",
            y=y,
            color=alt.Color("stage:N", title=None, scale=scale),
            order=alt.Order("position:Q"),
            tooltip=[alt.Tooltip("stage:N"), *_tips(rows, share=".1%")],
        )
    )


def _time(unit: str) -> alt.X:
    axis = alt.Axis(tickCount=6, grid=False)
    return alt.X("from:Q", title=f"{unit} of work", bin="binned", axis=axis)


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows)))


def _quality(field: str, **options: Any) -> alt.X:
    axis = alt.Axis(values=list(range(0, 101, 10)), labelOverlap="greedy")
    scale = alt.Scale(domain=[0, 100], nice=False)
    return alt.X(field, title="JPEG quality", axis=axis, scale=scale, **options)


def _with_gaps(rows: Sequence[Row], values: Sequence[str]) -> list[Row]:
    """The rows, and one without values wherever bands are missing: there a line breaks."""
    found: list[Row] = []
    for row in rows:
        if found and row["middle"] > found[-1]["middle"] + BAND_WIDTH:
            gap = {"middle": found[-1]["middle"] + BAND_WIDTH, **dict.fromkeys(values)}
            found.append({**row, **gap})
        found.append(row)
    return found


def _images(rows: Sequence[Row]) -> alt.Y:
    most = max(row["images"] for row in rows)
    ticks = list(range(most + 1)) if most < 5 else alt.Undefined  # whole images
    axis = alt.Axis(format="~s" if most >= _MANY else ",d", tickCount=5, values=ticks)
    return alt.Y("images:Q", title="images", axis=axis)


def _points(color: str) -> dict[str, Any]:
    return {"color": color, "filled": True, "size": 40}


def _tips(rows: Sequence[Row], **formats: str) -> list[alt.Tooltip]:
    """The tooltips of marks: their name, if they have one, and their numbers."""
    names: tuple[str, ...] = ("name", "quality", "series")
    shown = [key for key in names if key in rows[0]] or [k for k in ("from", "to") if k in rows[0]]
    texts = [alt.Tooltip(key, type="nominal") for key in shown if key not in formats]
    return texts + [
        alt.Tooltip(key, type="quantitative", format=form) for key, form in formats.items()
    ]
