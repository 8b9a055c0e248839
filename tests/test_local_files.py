"""What a folder and a pattern list, in which order, and that links lead nobody in circles."""

import os
from pathlib import Path

import pytest
from corpora import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.inputs.image_bytes import read_image
from pipeline.inputs.local_files import absolute_pattern, list_folder, list_glob
from pipeline.records import ImageRef


def below(folder: Path) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in list_folder(str(folder))]


def matching(pattern: Path, folder: Path) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in list_glob(str(pattern))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/../b.jpg", "/here/b.jpg"),
        ("/a/*.tar", "/a/*.tar"),
        ("{a,b}/*.tar", "/here/{a,b}/*.tar"),
        ("{/a/x.tar,/b/y.tar}", "{/a/x.tar,/b/y.tar}"),
        ("{/a/,b/,}{1..2},.tar", "{/a/,/here/b/,/here/}{1..2},.tar"),
        ("{1..2}/{/a,/b}", "/here/{1..2}/{/a,/b}"),
        ("{a", "/here/{a"),
    ],
)
def test_a_pattern_made_absolute_means_the_same(
    monkeypatch: pytest.MonkeyPatch, pattern: str, expected: str
) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert absolute_pattern(pattern) == expected


# Folders


def test_a_folder_is_listed_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    names = ["a.jpg", "a/z.jpg", "a/b/c.jpg", "a-b.jpg", "a0.jpg", "B.jpg", ".hidden.jpg", "é.jpg"]
    names += [".hidden/x.jpg", "no extension", "notes.txt", "a b/c d.jpg", "a#1/?.jpg"]
    write(tmp_path, *names)
    (tmp_path / "empty folder").mkdir()
    assert below(tmp_path) == sorted(names, key=os.fsencode)


_NAME = st.text("ab.-/0é", min_size=1, max_size=8)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.sets(_NAME, min_size=1, max_size=12))
def test_the_order_is_an_object_stores(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    for name in names:
        parts = [part for part in name.split("/") if part.strip(".")]
        path = folder.joinpath(*parts, "x")  # never a file and a folder of one name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    everything = [os.fsencode(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert [os.fsencode(path) for path in below(folder)] == sorted(everything)


def test_symbolic_links(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/sub/b.jpg", "outside/c.jpg")
    links = {
        "in/linked": "../outside",
        "in/linked.jpg": "a.jpg",
        "in/sub/parent": "..",  # a loop: not followed
        "in/itself": "itself",  # nothing but a link: a row that says so
        "in/gone.jpg": "nowhere.jpg",  # as above
    }
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    expected = ["a.jpg", "gone.jpg", "itself", "linked.jpg", "linked/c.jpg", "sub/b.jpg"]
    assert below(tmp_path / "in") == expected
    for name in ("gone.jpg", "itself"):
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            read_image(ImageRef(str(tmp_path / "in" / name)))


# Globs


def test_globs(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "a.jpg", "c.png", ".h.jpg", "sub/d.jpg", "sub/deep/e.jpg", "[x]/f.jpg")
    for pattern, expected in {
        "*.jpg": [".h.jpg", "a.jpg", "b.jpg"],
        "[ab].*": ["a.jpg", "b.jpg"],
        "**/*.jpg": [".h.jpg", "[x]/f.jpg", "a.jpg", "b.jpg", "sub/d.jpg", "sub/deep/e.jpg"],
        "**/sub/**/*.jpg": ["sub/d.jpg", "sub/deep/e.jpg"],  # found twice, listed once
        "sub/**": ["sub/d.jpg", "sub/deep/e.jpg"],
        "*/../*.jpg": [".h.jpg", "a.jpg", "b.jpg"],
        "s*": [],  # folders do not count
        "*.gif": [],
    }.items():
        assert matching(tmp_path / pattern, tmp_path) == expected


def test_a_relative_glob_where_the_folders_own_name_looks_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "photos [2024]/a.jpg")
    monkeypatch.chdir(tmp_path / "photos [2024]")
    assert matching(Path("*.jpg"), tmp_path) == ["photos [2024]/a.jpg"]


def test_a_glob_does_not_go_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/sub/b.jpg")
    (tmp_path / "in/sub/parent").symlink_to("..")
    (tmp_path / "in/also").symlink_to("sub")  # two ways into the loop: glob.glob never ends
    expected = ["a.jpg", "also/b.jpg", "sub/b.jpg"]
    assert matching(tmp_path / "in/**/*.jpg", tmp_path / "in") == expected
    # A loop in the part that was written out is the user's own way to name the folder.
    spelled = tmp_path / "in/sub/parent/sub"
    assert matching(spelled / "*.jpg", spelled) == ["b.jpg"]
