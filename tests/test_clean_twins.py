"""A clean original is found by its place: below its folder, with another extension, or not."""

from pathlib import Path

import pytest

from pipeline.pairs.clean_twins import CleanTwins
from pipeline.records import ImageRef


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("image", "original"),
    [
        ("sets/q10/n01/x.jpg", "clean/n01/x.jpg"),
        ("sets/q10/n01/x.jpg", "clean/q10/n01/x.jpg"),
        ("sets/q10/n01/x.jpg", "clean/x.jpg"),
        ("sets/q10/x.jpg", "clean/x.png"),
        ("sets/q10/x.png.jpg", "clean/x.png"),  # as `afd compress` calls it
    ],
)
def test_it_is_found_by_its_place(tmp_path: Path, image: str, original: str) -> None:
    expected = touched(tmp_path / original)
    ref = ImageRef(uri=str(touched(tmp_path / image)))
    assert CleanTwins(str(tmp_path / "clean")).of(ref).uri == str(expected)


def test_the_longest_place_wins(tmp_path: Path) -> None:
    expected = touched(tmp_path / "clean/n01/x.jpg")
    touched(tmp_path / "clean/x.jpg")
    touched(tmp_path / "clean/n02/x.jpg")
    ref = ImageRef(uri=str(tmp_path / "q10/n01/x.jpg"))
    assert CleanTwins(str(tmp_path / "clean")).of(ref).uri == str(expected)


def test_a_tars_member_has_its_own_place(tmp_path: Path) -> None:
    expected = touched(tmp_path / "clean/n01/x.jpg")
    tar = str(tmp_path / "q10.tar")
    ref = ImageRef(uri=f"{tar}#n01/x.jpg", source=tar, offset=512, num_bytes=4)
    assert CleanTwins(str(tmp_path / "clean")).of(ref).uri == str(expected)


def test_an_image_is_not_its_own_original(tmp_path: Path) -> None:
    image = touched(tmp_path / "photos/x.jpg")
    with pytest.raises(ValueError, match=r"no clean twin in .*photos"):
        CleanTwins(str(tmp_path / "photos")).of(ImageRef(uri=str(image)))


def test_two_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    touched(tmp_path / "clean/x.png")
    touched(tmp_path / "clean/x.webp")
    with pytest.raises(ValueError, match=r"several clean twins in .*: x\.png, x\.webp"):
        CleanTwins(str(tmp_path / "clean")).of(ImageRef(uri=str(tmp_path / "q10/x.jpg")))


def test_a_file_is_the_original_itself(tmp_path: Path) -> None:
    original = touched(tmp_path / "a.png")
    twins = CleanTwins(str(original))
    assert not twins.is_folder
    assert twins.of(ImageRef(uri=str(tmp_path / "b.jpg"))).uri == str(original)


def test_nothing_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--clean '.*gone': no such file or folder"):
        CleanTwins(str(tmp_path / "gone"))
