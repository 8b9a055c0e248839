"""`afd explain` on a few pictures: a PNG each, one line for each that has none."""

import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import MINIATURE, miniature_checkpoint
from jpegs import encode, photo, save
from matplotlib.figure import Figure
from PIL import Image

from afd_model.evaluation.explainer import Explanation
from jobs.drawing.feature_figure import Shown, feature_figure
from jobs.explain import header_in_words, main, output_names
from pipeline.records import EncodedImage, ImageRef
from pipeline.screening.screen import Limits, screen

FIXED = ("--backbone", MINIATURE, "--weights", "none", "--device", "cpu", "--dpi", "40")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_checkpoint(tmp_path_factory.mktemp("afd"))


def written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def pictures(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_every_image_gets_its_picture(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [written(tmp_path, f"{c}/x.jpg", encode(photo(80, 110))) for c in "ab"]
    out = tmp_path / "out"
    flags = ("--quality", "10", "--afd", str(checkpoint), "--output", str(out))
    assert main([*images, images[0], *FIXED, *flags]) == 0
    assert pictures(out) == ["a/x.jpg.png", "b/x.jpg.png"]  # one named twice is drawn once
    assert capsys.readouterr().out.split() == [str(out / name) for name in pictures(out)]
    with Image.open(out / "a/x.jpg.png") as wide:
        width = wide.width
    assert width == pytest.approx(13.66 * 40, abs=1)
    assert main([str(tmp_path), *FIXED, *flags]) == 0  # its own pictures are no images to explain
    assert pictures(out) == ["a/x.jpg.png", "b/x.jpg.png"]


def test_without_a_module_an_image_is_seen_through_the_backbones_own_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 8 pixels do not fill the 106 of TinyNet-E."""
    seen = []

    def watched(found: Explanation, shown: Shown) -> Figure:
        seen.append(shown.degraded.shape)
        return feature_figure(found, shown)

    monkeypatch.setattr("jobs.drawing.feature_figure.feature_figure", watched)
    image = written(tmp_path, "a.jpg", encode(photo(80, 110)))
    fixed = (*FIXED, "--output", str(tmp_path), "--backbone", "timm:tinynet_e")
    for afd in ("none", "default"):  # the identity, which takes the DCT
        assert main([image, *fixed, "--afd", afd]) == 0
    assert seen == [(106, 106, 3), (104, 104, 3)]


def test_bad_images_are_one_line_each_and_the_others_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = written(tmp_path, "good.jpg", encode(photo(80, 110)))
    html = written(tmp_path, "bad.jpg", b"<html>")
    damaged = written(tmp_path, "cut.jpg", encode(photo(80, 110))[:900])
    large = written(tmp_path, "large.jpg", encode(photo(81, 110)))
    taken = written(tmp_path, "taken.jpg", encode(photo(80, 110)))
    gone = str(tmp_path / "gone.jpg")
    out = tmp_path / "out"
    (out / "taken.jpg.png/x").mkdir(parents=True)
    images = [html, gone, large, taken, damaged, good]
    flags = ("--output", str(out), "--afd", "none", "--max-pixels", "8800")
    assert main([*images, *FIXED, *flags]) == 1
    *lines, too_large, no_file = capsys.readouterr().err.splitlines()
    assert lines == [
        f"afd explain: no such file or folder: {gone!r}",
        f"drawing 5 images with {MINIATURE}",
        f"afd explain: {html}: not a JPEG, PNG or WebP: the content is html",
    ]
    assert too_large.startswith(f"afd explain: {large}: ")
    assert "8910 pixels" in too_large
    assert no_file.startswith(f"afd explain: {taken}: ")
    assert pictures(out) == ["cut.jpg.png", "good.jpg.png", "taken.jpg.png"]


def test_a_token_that_expires_is_one_line_for_all(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([expired, *FIXED, "--output", str(tmp_path / "out"), "--afd", "none"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"drawing 16 images with {MINIATURE}",
        "afd explain: HTTP 403 ExpiredToken: the credentials in the environment have expired",
    ]


def test_twins_are_found_or_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that is found is white: of twins, only the sizes are compared."""
    seen: list[Shown] = []

    def watched(found: Explanation, shown: Shown) -> Figure:
        seen.append(shown)
        return feature_figure(found, shown)

    monkeypatch.setattr("jobs.drawing.feature_figure.feature_figure", watched)
    rgb = photo(80, 110)
    written(tmp_path, "clean/n01/x.png", save(np.full_like(rgb, 255), "PNG"))
    found = written(tmp_path, "q10/n01/x.jpg", encode(rgb, quality=10))
    missed = written(tmp_path, "q10/n01/y.jpg", encode(rgb, quality=10))
    out, clean = str(tmp_path / "out"), str(tmp_path / "clean")
    assert main([found, missed, *FIXED, "--output", out, "--clean", clean]) == 1
    assert pictures(tmp_path / "out") == ["x.jpg.png"]
    started, line = capsys.readouterr().err.splitlines()
    assert started == f"drawing 2 images with {MINIATURE}"
    assert line.startswith(f"afd explain: {missed}: no clean twin in ")
    [shown] = seen
    assert shown.clean is not None
    assert shown.clean.min() == 255
    assert shown.degraded.mean() < 230


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clean", "CLEAN/x.png"], "is one file for 2 images: give the folder"),
        (["--clean", "CLEAN/gone"], "no such file or folder"),
        (["--afd", "gone.safetensors"], "AFD checkpoint not found: gone.safetensors"),
        (["--backbone", "resnet19"], "unknown backbone 'resnet19'"),
    ],
)
def test_a_job_that_cannot_start_says_why(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [written(tmp_path, name, encode(photo(80, 110))) for name in ("a.jpg", "b.jpg")]
    written(tmp_path, "clean/x.png", save(photo(80, 110), "PNG"))
    flags = [flag.replace("CLEAN", str(tmp_path / "clean")) for flag in flags]
    assert main([*images, *FIXED, "--output", str(tmp_path / "out"), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not pictures(tmp_path / "out")


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([written(tmp_path, "a.jpg", encode(photo(80, 110))), *FIXED]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "matplotlib" in line
    assert "pip install 'afd-label[figures]'" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality", "0"], "--quality 0 is not between 1 and 100"),
        (["--quality", "10", "--clean", "x"], "exclude each other"),
        (["--quality", "low"], "--quality 'low' is not"),
        (["--dpi", "5"], "--dpi 5 is not between 20 and 1200"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["a.jpg", *flags])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def facts(data: bytes) -> str:
    image = EncodedImage(0, data)
    screen(image, Limits())
    return header_in_words(image)


def test_a_header_in_words() -> None:
    rgb = photo(80, 110)
    jpeg = encode(rgb, quality=37, subsampling="4:4:4", progressive=True)
    size = f"110x80 pixels, {len(jpeg) / 1000:.1f} kB"
    assert facts(jpeg) == f"JPEG quality 37, 4:4:4, {size}, progressive"
    assert facts(save(rgb, "PNG")).startswith("not a JPEG, no stated quality, 110x80 pixels")
    assert ", damaged: truncated" in facts(encode(rgb)[:-300])


def test_two_of_one_name_get_two_pictures() -> None:
    refs = [
        ImageRef(uri=f"/{tar}.tar#x/1.jpg", source=f"/{tar}.tar", offset=512, num_bytes=9)
        for tar in "ab"
    ]
    assert list(output_names(refs)) == ["x/1.jpg", "x/1.jpg-2"]
    refs = [ImageRef(f"/photos/{name}.jpg") for name in "Aa"]  # on a disk that ignores case
    assert list(output_names(refs)) == ["A.jpg", "a.jpg-2"]
