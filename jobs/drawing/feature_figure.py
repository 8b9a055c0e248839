"""The figure of `afd explain` for one image: its panels and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from afd_model.evaluation.explainer import Explanation, Label
from afd_model.evaluation.feature_maps import ColourScale, difference_map, fdm_views, fit_colours
from jobs.drawing.figures import (
    GRAY,
    GREEN,
    ORANGE,
    BarsPanel,
    MapPanel,
    Panel,
    PicturePanel,
    draw_panels,
    shortened,
)

_NAME_CHARACTERS = 20
_TOP_PERCENTILE = 99.5  # not 100: a few outliers would make the rest of a map too dark


@dataclass(frozen=True)
class Shown:
    """What a figure shows besides the explanation.

    name: of the file. facts: its header in words. model: backbone and module in words.
    degraded, clean: (H, W, 3) uint8, what the model saw; clean is None without an original.
    class_names: one per class; None when not known.
    fdm_layer: the layer whose channels the FDM scales: "stem" or "bottleneck".
    trained: False for an untrained module.
    """

    name: str
    facts: str
    model: str
    degraded: np.ndarray
    clean: np.ndarray | None
    class_names: tuple[str, ...] | None
    fdm_layer: str
    trained: bool


def feature_figure(found: Explanation, shown: Shown) -> Figure:
    """The picture; its degraded, enhanced and clean features; their differences; the FDM."""
    basis = found.degraded if found.clean_features is None else found.clean_features
    colours = fit_colours(basis)
    lines = [shown.facts, _angles(found, shown), shown.model, _legend(found, colours)]
    return draw_panels(_rows(found, shown, colours), shown.name, lines)


def _rows(found: Explanation, shown: Shown, colours: ColourScale) -> list[list[Panel]]:
    """Pictures and features in the first row, differences in the second, the FDM at the end."""
    jpeg = PicturePanel("JPEG as it is", "the model's window of it", rgb=shown.degraded)
    features = _feature_panels(found, shown, colours)
    differences = _difference_panels(found)
    fdm = [] if found.fdm is None else _fdm_panels(found.fdm, shown)
    if shown.clean is None:
        below = [*differences, *fdm]
        return [[jpeg, *features], below] if below else [[jpeg, *features]]
    clean = PicturePanel("clean original", "before compression", rgb=shown.clean)
    return [[jpeg, *features, *fdm[:1]], [clean, *differences, *fdm[1:]]]


def _feature_panels(found: Explanation, shown: Shown, colours: ColourScale) -> list[Panel]:
    panels: list[Panel] = []
    for title, features, word, label in (
        ("degraded features", found.degraded, "direct", found.direct),
        ("enhanced features", found.enhanced, "with AFD", found.afd),
        ("clean features", found.clean_features, "clean", found.clean),
    ):
        if features is None or label is None:
            continue
        colour = GRAY
        if found.clean is not None:
            colour = GREEN if label.index == found.clean.index else ORANGE
        note = f"{word}: {_in_words(label, shown.class_names)}"
        panels.append(PicturePanel(title, note, colour, rgb=colours.rgb(features)))
    return panels


def _in_words(label: Label, class_names: tuple[str, ...] | None) -> str:
    name = class_names[label.index].split(",")[0] if class_names else ""
    name = shortened(name or f"class {label.index}", _NAME_CHARACTERS)
    return f"{name} {label.confidence:.1%}"


def _difference_panels(found: Explanation) -> list[Panel]:
    """|degraded - clean| and |enhanced - clean| on the same scale, and the first minus the second.

    Without a clean original: what the module changed. Without either: no panel.
    """
    if found.clean_features is None:
        if found.enhanced is None:
            return []
        change = difference_map(found.enhanced, found.degraded)
        note = f"what the module changed, mean {change.mean():.3g}"
        return [MapPanel("|enhanced − degraded|", note, values=change, low=0, high=_top(change))]
    before = difference_map(found.degraded, found.clean_features)
    high = _top(before)
    note = f"true angle {found.true_angle_deg:.2f}°, mean {before.mean():.3g}"
    panels: list[Panel] = [MapPanel("|degraded − clean|", note, values=before, low=0, high=high)]
    if found.enhanced is None:
        return panels
    after = difference_map(found.enhanced, found.clean_features)
    note = f"{found.remaining_angle_deg:.2f}° left, mean {after.mean():.3g}"
    panels.append(MapPanel("|enhanced − clean|", note, values=after, low=0, high=high))
    gain = before - after
    end = _top(np.abs(gain))
    note = f"blue: nearer to clean ({(gain > 0).mean():.0%})"
    panels.append(
        MapPanel("difference of the two", note, values=gain, low=-end, high=end, colours="RdBu")
    )
    return panels


def _top(values: np.ndarray) -> float:
    """The upper end of a colour scale that starts at 0; 1 when all values are 0."""
    return float(np.percentile(values, _TOP_PERCENTILE)) or 1.0


def _fdm_panels(fdm: Tensor, shown: Shown) -> list[Panel]:
    """The FDM by position and by channel, as far as it varies with either."""
    views = fdm_views(fdm)
    channels, rows, columns = fdm.shape
    title = "FDM" if shown.trained else "FDM (untrained)"
    panels: list[Panel] = []
    if views.places is not None:
        note = f"{rows}x{columns}"
        note += "" if views.gates is None else f", mean of {channels} channels"
        low, high = float(views.places.min()), float(views.places.max())
        high = max(high, low + 1e-6)
        panels.append(
            MapPanel(title, note, values=views.places, low=low, high=high, colours="viridis")
        )
    if views.gates is not None:
        note = "mean over the positions" if views.places is not None else f"{channels} channels"
        label = f"{shown.fdm_layer} channel"
        panels.append(BarsPanel(f"{title} by channel", note, values=views.gates, label=label))
    return panels


def _angles(found: Explanation, shown: Shown) -> str:
    parts: Sequence[str] = []
    if found.drift_angle_deg is not None:
        parts = [f"drift angle {found.drift_angle_deg:.2f}° (degraded to enhanced)"]
    elif found.enhanced is not None and not shown.trained:
        parts = ["drift angle unknown: the AFD-Module is untrained"]
    if found.true_angle_deg is not None:
        parts = [*parts, f"true angle {found.true_angle_deg:.2f}° (degraded to clean)"]
    if found.remaining_angle_deg is not None:
        parts = [*parts, f"{found.remaining_angle_deg:.2f}° left after AFD (enhanced to clean)"]
    return "; ".join(parts)


def _legend(found: Explanation, colours: ColourScale) -> str:
    whose = "degraded" if found.clean_features is None else "clean"
    return (
        f"features: red, green and blue are the first three principal components of the {whose}"
        f" features ({colours.explained:.0%} of their variance), on one scale for all"
    )
