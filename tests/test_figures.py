"""Figures: what they say, where panels stand, and that colours mean the same in all of them."""

import ast
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure
from PIL import Image

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.evaluation.explainer import Explanation, Label, explain
from afd_model.evaluation.response_angles import BlockAngles
from jobs.drawing.angle_figure import angle_figure
from jobs.drawing.feature_figure import Shown, feature_figure
from jobs.drawing.figures import (
    BarsPanel,
    MapPanel,
    PicturePanel,
    draw_panels,
    shortened,
    write_png,
)
from jobs.evaluation.angles import AngleStudy, curves_of

ROOT = Path(__file__).parent.parent


def pixels_of(figure: Figure, path: Path) -> np.ndarray:
    """What is in the file, uint8 (H, W, 3), at 50 dots per inch."""
    write_png(figure, path, 50)
    return np.asarray(Image.open(path).convert("RGB"))


def inside(picture: np.ndarray, figure: Figure, axes: int) -> np.ndarray:
    """The (3,) colour in the middle of a figure's axes."""
    box = figure.axes[axes].get_position()
    height, width = picture.shape[:2]
    x, y = (box.x0 + box.x1) / 2 * width, (1 - (box.y0 + box.y1) / 2) * height
    return picture[int(y), int(x)]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def test_a_picture_is_shown_in_its_own_colours(tmp_path: Path) -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:] = (10, 200, 90)
    figure = draw_panels([[PicturePanel("a", rgb=rgb), PicturePanel("b", rgb=rgb / 255)]], "h", [])
    picture = pixels_of(figure, tmp_path / "a.png")
    for axes in (0, 1):
        np.testing.assert_allclose(inside(picture, figure, axes), (10, 200, 90), atol=1)


def test_equal_values_have_equal_colours_on_one_scale(tmp_path: Path) -> None:
    panels = [
        MapPanel("a", values=np.full((3, 3), 2.0), low=0, high=8),
        MapPanel("b", values=np.array([[2.0, 8, 2], [2, 2, 2], [9, 2, 2]]), low=0, high=8),
        MapPanel("c", values=np.full((3, 3), 2.0), low=0, high=2),
    ]
    figure = draw_panels([panels], "h", [])
    picture = pixels_of(figure, tmp_path / "a.png")
    maps = [k for k, axes in enumerate(figure.axes) if axes.images]
    colours = [inside(picture, figure, k).tolist() for k in maps]
    assert colours[0] == colours[1] != colours[2]


def test_panels_have_one_size_and_stand_in_rows() -> None:
    rgb, values = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2))
    row = [PicturePanel("a", rgb=rgb), MapPanel("b", values=values, low=0, high=1)]
    figure = draw_panels([row, row], "h", ["one", "two"])
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    sizes = {(round(b.width * width, 6), round(b.height * height, 6)) for b in boxes}
    assert len(sizes) == 1
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1
    assert boxes[0].x0 == boxes[2].x0 < boxes[1].x0
    assert all(0 < b.x0 < b.x1 < 1 and 0 < b.y0 < b.y1 < 1 for b in boxes)


def test_bars_are_the_values() -> None:
    figure = draw_panels([[BarsPanel("a", values=np.array([0.2, 0.7]), label="gate")]], "h", [])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.2, 0.7]


@pytest.mark.parametrize("name", ["$a$ and $b.jpg", r"\frac{x", "写真 é.jpg", "a\nb\tc.jpg"])
def test_any_name_can_be_a_heading(name: str, tmp_path: Path) -> None:
    figure = draw_panels([[PicturePanel("a", rgb=np.zeros((2, 2, 3), np.uint8))]], name, [name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_png(figure, tmp_path / "a.png", 50)
    assert texts(figure).splitlines()[0] == " ".join(name.split())


def test_the_style_of_the_current_folder_is_not_used(tmp_path: Path) -> None:
    with rc_context({"text.usetex": True, "savefig.dpi": 7}):
        pixels_of(draw_panels([[]], "heading", ["a line"]), tmp_path / "a.png")
        assert rcParams["savefig.dpi"] == 7  # for whoever else draws in this process


def test_long_names_lose_their_middle() -> None:
    name = "photos/" + "x" * 200 + "/end.jpg"
    short = shortened(name, 40)
    assert len(short) == 40
    assert short.startswith("photos/")
    assert short.endswith("/end.jpg")
    assert shortened("short", 40) == "short"


def test_long_lines_are_wrapped() -> None:
    panel = PicturePanel("a", rgb=np.zeros((2, 2, 3), np.uint8))
    line = "word " * 60
    figure = draw_panels([[panel]], "h", [line])
    found = texts(figure).split("\n")[1:]
    assert " ".join(found).split()[:60] == line.split()
    assert max(map(len, found)) < 150


def test_matplotlib_stays_in_the_figures() -> None:
    """No pyplot, whose state is global; and no job needs matplotlib to show its help."""
    importers = set()
    for path in (ROOT / "jobs").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {getattr(node, "module", None) or node.names[0].name for node in top}
        if any(f"{name}.".startswith(("matplotlib.", "jobs.drawing.")) for name in names):
            importers.add(path.name)
        assert "pyplot" not in path.read_text(encoding="utf-8")
    assert importers == {"figures.py", "feature_figure.py", "angle_figure.py"}


@cache
def backbone() -> Backbone:
    return load_backbone(MINIATURE, "none")


def explained(*, clean: bool = True, **changes: Any) -> Explanation:
    """Of a random picture by a module whose FDM is gated as `changes` say."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    dct = torch.randn(1, 192, 8, 8, generator=generator) * 20
    afd = AFDModule(config_for(backbone(), "light", **changes))
    for parameter in afd.fe_net.exit.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    classifier = AFDClassifier(backbone(), afd).eval()
    return explain(classifier, pixels, dct, pixels.roll(1, 3) if clean else None)


def shown(**changes: Any) -> Shown:
    rgb = np.zeros((64, 64, 3), np.uint8)
    fixed = Shown("x.jpg", "JPEG quality 10", "resnet18", rgb, rgb, None, "stem", trained=True)
    return replace(fixed, **changes)


def titles(figure: Figure) -> set[str]:
    return set(texts(figure).split("\n"))


def test_a_feature_figure_says_what_was_found() -> None:
    found = replace(explained(), direct=Label(1, 0.5), afd=Label(0, 0.25), clean=Label(0, 0.75))
    names = ("great white shark, white shark", "a name that is far too long for its panel")
    figure = feature_figure(found, shown(class_names=names))
    said = texts(figure)
    for part in (
        "x.jpg",
        "JPEG quality 10",
        "direct: a name…for its panel 50.0%",
        "with AFD: great white shark 25.0%",
        "clean: great white shark 75.0%",
        f"drift angle {found.drift_angle_deg:.2f}°",
        f"true angle {found.true_angle_deg:.2f}°",
        f"{found.remaining_angle_deg:.2f}° left",
    ):
        assert part in said
    colour = {text.get_text().split(":")[0]: text.get_color() for text in figure.texts}
    assert colour["with AFD"] == colour["clean"] != colour["direct"]
    for nameless in (None, ("", "cat")):
        assert "clean: class 0 75.0%" in texts(feature_figure(found, shown(class_names=nameless)))


@pytest.mark.parametrize("kind", ["channel", "spatial", "full+channel"])
def test_every_form_of_fdm_is_drawn(kind: str, tmp_path: Path) -> None:
    """Of many channels at one place, of one channel at many, and of many at many."""
    figure = feature_figure(explained(fdm=kind), shown())
    found = titles(figure)
    assert ("FDM" in found) == (kind != "channel")
    assert ("FDM by channel" in found) == (kind != "spatial")
    assert {"|degraded − clean|", "|enhanced − clean|", "enhanced features"} <= found
    write_png(figure, tmp_path / "a.png", 30)


def test_the_two_differences_share_one_scale() -> None:
    figure = feature_figure(explained(), shown())
    bars = [tuple(a.get_xlim()) for a in figure.axes if not a.images and not a.patches]
    assert bars[1] == bars[2]  # the first is the FDM's
    assert bars[0] != bars[1]


def test_without_an_original_there_is_what_the_module_changed() -> None:
    found = titles(feature_figure(explained(clean=False), shown(clean=None)))
    assert {"degraded features", "enhanced features", "|enhanced − degraded|", "FDM"} <= found
    assert not {"clean features", "clean original", "|degraded − clean|"} & found


@pytest.mark.parametrize("clean", [True, False])
def test_without_a_module_there_is_nothing_of_it(*, clean: bool) -> None:
    found = explained(clean=clean)
    bare = replace(
        found, afd=None, enhanced=None, fdm=None, drift_angle_deg=None, remaining_angle_deg=None
    )
    rgb = np.zeros((64, 64, 3), np.uint8)
    said = titles(feature_figure(bare, shown(clean=rgb if clean else None)))
    assert "degraded features" in said
    assert ("|degraded − clean|" in said) == clean
    assert not [title for title in said if "nhanced" in title or "FDM" in title]


def test_an_untrained_module_is_called_that() -> None:
    found = explained()
    untrained = replace(found, enhanced=found.degraded, drift_angle_deg=None)
    said = texts(feature_figure(untrained, shown(trained=False)))
    assert "the AFD-Module is untrained" in said
    assert "FDM (untrained)" in said


def test_the_angle_figure_shows_points_and_curves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    angles = {}
    for quality in (10, 50):
        x = rng.uniform(0, 30, (2, 7, 7)).astype(np.float32)
        angles[quality] = BlockAngles(x, x / 2, x / 3)
    study = AngleStudy(["a", "b"], angles, curves_of(angles))
    figure = angle_figure(study, "resnet18, AFD-Module: a.safetensors")
    assert len(figure.axes) == 2
    for axes, quality in zip(figure.axes, (10, 50), strict=True):
        direct, enhanced = axes.lines
        np.testing.assert_allclose(direct.get_ydata(), direct.get_xdata() / 2, rtol=1e-5)
        np.testing.assert_allclose(enhanced.get_ydata(), enhanced.get_xdata() / 3, rtol=1e-5)
        cloud = axes.collections[0]
        shown_points = angles[quality].dct_deg.max() * 0.99
        assert cloud.get_offsets()[:, 0].max() > 0.9 * shown_points
        assert axes.get_xlim() == figure.axes[0].get_xlim()
    assert "Spearman 1.00 direct, 1.00 enhanced" in texts(figure)
    assert "2 images, 98 blocks" in texts(figure)
    write_png(figure, tmp_path / "a.png", 30)
