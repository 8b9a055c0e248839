"""The paper's Fig. 4: angle between features, against angle between DCT coefficients."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from jobs.drawing.figures import BLUE, ORANGE, CloudPanel, Line, Panel, draw_panels
from jobs.evaluation.angles import AngleStudy, Curve

_SHOWN_PERCENTILE = 99.7  # not 100: blocks with features near 0 have angles of up to 90 degrees
_COLOURS = {"direct": BLUE, "enhanced": ORANGE}
_X_LABEL, _Y_LABEL = "DCT coefficient angle, degrees", "feature response angle, degrees"


def angle_figure(study: AngleStudy, model: str) -> Figure:
    """One panel per quality, with the same axes. model: backbone and module in words."""
    everything = study.angles.values()
    ends = (
        float(np.percentile([found.dct_deg for found in everything], _SHOWN_PERCENTILE)),
        float(np.percentile([found.direct_deg for found in everything], _SHOWN_PERCENTILE)),
    )
    blocks = study.curves[0].blocks
    lines = [
        f"{model}; {len(study.names)} images, {blocks} blocks of 8x8 pixels per panel",
        "angles between each block and the same block of the clean picture; gray: number of"
        " blocks (log scale), direct features; lines: medians; bands: quartiles",
    ]
    panels = [
        _panel(study, quality, ends, (_X_LABEL, "" if k else _Y_LABEL))
        for k, quality in enumerate(study.angles)
    ]
    return draw_panels([panels], "Feature response angle against DCT coefficient angle", lines)


def _panel(
    study: AngleStudy, quality: int, ends: tuple[float, float], labels: tuple[str, str]
) -> Panel:
    found = study.angles[quality]
    curves = [curve for curve in study.curves if curve.quality == quality]
    note = ", ".join(f"{c.spearman:.2f} {c.features}" for c in curves)
    return CloudPanel(
        f"JPEG quality {quality}",
        f"Spearman {note}",
        x=found.dct_deg.ravel(),
        y=found.direct_deg.ravel(),
        lines=[_line(curve) for curve in curves],
        ends=ends,
        labels=labels,
    )


def _line(curve: Curve) -> Line:
    name, bins = curve.features, curve.bins
    return Line(f"{name} features", _COLOURS[name], bins.x, bins.median, bins.low, bins.high)
