"""What a training run says of images that were compressed before."""

from pathlib import Path

import pytest
from jpegs import encode, photo
from training_runs import make_collection, train

from jobs.training.originals import advice
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits
from pipeline.sources import list_images


def images(folder: Path, *, side: int, quality: int, count: int = 3) -> list[ImageRef]:
    for k in range(count):
        name = f"{side}-{quality}-{k}.jpg"
        (folder / name).write_bytes(encode(photo(side, side + 20, k), quality=quality))
    return list(list_images(str(folder)))


def told(refs: list[ImageRef], crop: int) -> str | None:
    return advice(refs, crop, Limits(), num_threads=2)


def test_small_images_of_a_low_quality_are_told_with_the_way_out(tmp_path: Path) -> None:
    refs = images(tmp_path, side=200, quality=75)
    assert told(refs, 104) == (
        "most images are small JPEGs of quality 75 (median), and what that has left in them is"
        " taught as clean: --reduced-share 1 reduces them first"
    )
    # 0.75 x 200 pixels hold 1.25 windows of 120 pixels.
    assert "--reduced-share 1 --crop 120 reduces" in (told(refs, 224) or "")


@pytest.mark.parametrize(
    ("side", "quality", "crop"),
    [(200, 95, 104), (200, 75, 96), (100, 75, 104)],
    ids=["nearly clean", "reduced by the window", "too small to be reduced"],
)
def test_other_images_are_not(tmp_path: Path, side: int, quality: int, crop: int) -> None:
    assert told(images(tmp_path, side=side, quality=quality), crop) is None


def test_a_few_of_them_are_not(tmp_path: Path) -> None:
    images(tmp_path, side=200, quality=75, count=2)
    (tmp_path / "unreadable.jpg").write_bytes(b"<html>")
    assert told(images(tmp_path, side=200, quality=95, count=1), 104) is None


def test_a_run_says_so_once_at_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = make_collection(tmp_path / "photos", quality=60, side=110)
    flags = ("--crop", "64", "--max-steps", "1", "--stem-steps", "0", "--batch-size", "2")
    assert train(collection, tmp_path / "reduced", *flags, "--reduced-share", "1") == 0
    assert "taught as clean" not in capsys.readouterr().err
    assert train(collection, tmp_path / "run", *flags) == 0
    assert "quality 60 (median)" in capsys.readouterr().err
    assert train(collection, tmp_path / "run", *flags, "--max-steps", "2") == 0
    assert "taught as clean" not in capsys.readouterr().err
