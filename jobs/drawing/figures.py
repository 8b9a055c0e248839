"""Draws figures as rows of panels under a heading. Needs matplotlib.

Positions are in inches, so that all panels have the same size. Neither the user's style nor one in
the current folder is used, which may be a downloaded collection's: a style can run LaTeX.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from afd_model.atomic_file import atomic_write

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#007A5E", "#555555"

# Inches.
_CELL, _GAP, _MARGIN = 2.5, 0.2, 0.18
_PANEL_TITLE, _BAR_ROOM, _BAR = 0.42, 0.44, 0.09
_TICK_ROOM = 0.28  # left of bars
_HEADING, _LINE = 0.32, 0.185
_CHARACTERS_PER_INCH = 16  # of the lines under the heading
_MIN_COLUMNS = 3  # a narrower figure would wrap those lines too often


@dataclass(frozen=True)
class Panel:
    """title, note: two lines above the panel. note_colour: of the second line."""

    title: str
    note: str = ""
    note_colour: str = GRAY


@dataclass(frozen=True)
class PicturePanel(Panel):
    """rgb: (H, W, 3) uint8, or float from 0 to 1."""

    rgb: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class MapPanel(Panel):
    """values: (H, W). low, high: ends of the colour scale. colours: matplotlib's name of it."""

    values: np.ndarray = field(kw_only=True)
    low: float = field(kw_only=True)
    high: float = field(kw_only=True)
    colours: str = field(kw_only=True, default="magma")


@dataclass(frozen=True)
class BarsPanel(Panel):
    """values: (C,) in 0..1, one bar each. label: of the horizontal axis."""

    values: np.ndarray = field(kw_only=True)
    label: str = field(kw_only=True)


@dataclass(frozen=True)
class Line:
    """A curve and the band around it; (K,) each, in the axes' units."""

    label: str
    colour: str
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class CloudPanel(Panel):
    """x, y: (N,) points, drawn as density, with curves over them. ends: upper ends of the axes.

    labels: of the axes. The legend is drawn only when the second label is not empty.
    """

    x: np.ndarray = field(kw_only=True)
    y: np.ndarray = field(kw_only=True)
    lines: Sequence[Line] = field(kw_only=True)
    ends: tuple[float, float] = field(kw_only=True)
    labels: tuple[str, str] = field(kw_only=True)


_own_style = style.context("default")


@_own_style
def write_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write the file completely or not at all, in a folder that may be new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Characters of a file's name that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, format="png", dpi=dpi)


@_own_style
def draw_panels(rows: Sequence[Sequence[Panel]], heading: str, lines: Sequence[str]) -> Figure:
    """A grid of panels. heading: one line, shortened to fit. lines: below it, wrapped to fit."""
    columns = max(_MIN_COLUMNS, *(len(row) for row in rows))
    width = 2 * _MARGIN + columns * (_CELL + _GAP) - _GAP
    wrapped = [part for line in lines for part in _wrapped(line, width)]
    heights = [_PANEL_TITLE + _CELL + (_BAR_ROOM if _has_bar(row) else _GAP) for row in rows]
    top = _MARGIN + _HEADING + _LINE * len(wrapped) + 0.06
    figure = Figure(figsize=(width, top + sum(heights)), facecolor="white")
    page = _Page(figure)
    page.text(_MARGIN, _MARGIN, shortened(heading, int(width * 10)), size=12, weight="bold")
    for k, line in enumerate(wrapped):
        page.text(_MARGIN, _MARGIN + _HEADING + k * _LINE, line, size=9, colour=GRAY)
    for row, height in zip(rows, heights, strict=True):
        for k, panel in enumerate(row):
            page.panel(_MARGIN + k * (_CELL + _GAP), top, panel)
        top += height
    return figure


def _has_bar(row: Sequence[Panel]) -> bool:
    return any(isinstance(panel, MapPanel | BarsPanel | CloudPanel) for panel in row)


def _wrapped(line: str, width: float) -> list[str]:
    return textwrap.wrap(line, int((width - 2 * _MARGIN) * _CHARACTERS_PER_INCH))


def shortened(text: str, characters: int) -> str:
    """The text as one line of at most `characters`; the middle of a longer one is left out."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    head = (characters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"


class _Page:
    """Places text and panels on a figure, in inches from its top left corner."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._width, self._height = figure.get_size_inches()

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        weight: str = "normal",
        colour: str = "black",
    ) -> None:
        self._figure.text(
            x / self._width,
            1 - y / self._height,
            text,
            size=size,
            weight=weight,
            color=colour,
            va="top",
            parse_math=False,  # a file's name may contain two dollar signs
        )

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        w, h = self._width, self._height
        return self._figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))

    def panel(self, x: float, y: float, panel: Panel) -> None:
        self.text(x, y + 0.02, panel.title, size=10, weight="bold")
        self.text(x, y + 0.21, panel.note, size=9, colour=panel.note_colour)
        y += _PANEL_TITLE
        if isinstance(panel, PicturePanel):
            _show(self.axes(x, y, _CELL, _CELL), panel.rgb)
        elif isinstance(panel, MapPanel):
            scale = ScalarMappable(Normalize(panel.low, panel.high), panel.colours)
            _show(self.axes(x, y, _CELL, _CELL), scale.to_rgba(panel.values, bytes=True))
            self._bar(x, y + _CELL + 0.06, scale)
        elif isinstance(panel, BarsPanel):
            _bars(self.axes(x + _TICK_ROOM, y, _CELL - _TICK_ROOM, _CELL), panel)
        elif isinstance(panel, CloudPanel):
            _cloud(self.axes(x + _TICK_ROOM, y, _CELL - _TICK_ROOM, _CELL - _TICK_ROOM), panel)

    def _bar(self, x: float, y: float, scale: ScalarMappable) -> None:
        low, high = scale.get_clim()
        bar = self._figure.colorbar(
            scale, cax=self.axes(x, y, _CELL, _BAR), orientation="horizontal"
        )
        bar.set_ticks([low, (low + high) / 2, high])
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        bar.ax.tick_params(labelsize=7.5, length=2, pad=1.5, color=GRAY, labelcolor=GRAY)
        first, _, last = bar.ax.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        bar.outline.set_linewidth(0.4)


def _show(axes: Axes, rgb: np.ndarray) -> None:
    axes.imshow(rgb, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _bars(axes: Axes, panel: BarsPanel) -> None:
    axes.bar(np.arange(len(panel.values)), panel.values, width=0.8, color=BLUE)
    axes.set_xlim(-0.6, len(panel.values) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_xlabel(panel.label, size=8, color=GRAY, labelpad=2)
    _plain(axes)


def _cloud(axes: Axes, panel: CloudPanel) -> None:
    right, top = panel.ends
    axes.hexbin(
        panel.x,
        panel.y,
        gridsize=60,
        extent=(0, right, 0, top),
        bins="log",
        cmap="Greys",
        mincnt=1,
        linewidths=0,
    )
    for line in panel.lines:
        axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.2, linewidth=0)
        axes.plot(line.x, line.middle, color=line.colour, linewidth=1.6, label=line.label)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel(panel.labels[0], size=9)
    axes.set_ylabel(panel.labels[1], size=9, labelpad=2)
    if panel.labels[1]:
        axes.legend(loc="lower right", fontsize=8, frameon=False, handlelength=1.4)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5, length=2, pad=1.5, color=GRAY, labelcolor=GRAY)
    for side, spine in axes.spines.items():
        spine.set_linewidth(0.4)
        spine.set_visible(side in ("left", "bottom"))
