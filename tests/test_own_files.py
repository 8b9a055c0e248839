"""An output among the images is no image, and nothing else is left out."""

import os
from pathlib import Path

import pytest
from corpora import write
from servers import Bucket

from pipeline.output import OutputError, OutputFolder
from pipeline.own_files import list_images_outside, own_files
from pipeline.sources import list_images

RUN = ("run.json", "plan.parquet", "labels/part-00000.parquet", ".staging/x", ".drivers/a.json")
IMAGES = ("photos/a.jpg", "photos/out.jpg", "photos/out2/b.jpg", "photos/z/c.jpg")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, *IMAGES, *(f"photos/out/{name}" for name in RUN), "photos/out/old.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(location: str, output: str) -> list[str]:
    refs = list_images(location, own_files(location, OutputFolder(output)))
    return [os.path.relpath(ref.uri) for ref in refs]


@pytest.mark.parametrize("location", ["photos", "photos/**", "photos/**/*.*", "{photos,photos/z}/"])
def test_what_is_below_the_output_is_left_out(folder: Path, location: str) -> None:
    for output in ("photos/out", str(folder / "photos/out/"), "photos/../photos/out"):
        assert sorted(set(listed(location, output))) == sorted(IMAGES)


def test_an_output_elsewhere_changes_nothing(folder: Path) -> None:
    everything = [os.path.relpath(ref.uri) for ref in list_images("photos")]
    for output in ("elsewhere", "photos2", "photos/ou", "s3://bucket/photos"):
        assert listed("photos", output) == everything


def test_a_link_to_either_is_seen_through(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "photos")
    assert listed("photos", "link/out") == list(IMAGES)
    assert listed("link", "photos/out") == [f"link{name[6:]}" for name in IMAGES]


@pytest.fixture
def mounted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second path to photos/ that its name does not give away, as a bind mount's.

    It is a link that `os.path.realpath` does not follow.
    """
    (folder / "mounted").symlink_to(folder / "photos")
    monkeypatch.setattr("os.path.realpath", os.path.abspath)
    return folder / "mounted"


@pytest.mark.parametrize("output", ["mounted/out", "mounted/new", "mounted/out/new"])
def test_a_second_path_to_the_input_is_recognised(mounted: Path, output: str) -> None:
    write(mounted.parent, *(f"{output}/{name}" for name in ("q10/a.jpg", "run.json")))
    own = OutputFolder(output)
    wanted = [ref.uri for ref in list_images("photos") if f"/{output[8:]}/" not in ref.uri]
    assert [ref.uri for ref in list_images("photos", own_files("photos", own))] == wanted
    assert [ref.uri for ref in list_images_outside("photos/**", own)] == wanted


def test_a_second_path_to_the_input_is_no_output_for_sets_of_images(mounted: Path) -> None:
    with pytest.raises(OutputError, match=r"/mounted' is the input's own: choose another"):
        list_images_outside("photos", OutputFolder("mounted"))
    write(mounted, *RUN)
    own_names = {f"photos/{name}" for name in RUN}
    assert not own_names & set(listed("photos", "mounted"))
    assert listed("photos/z", "mounted") == ["photos/z/c.jpg"]


def test_in_its_own_output_a_collection_lacks_only_what_the_run_writes(folder: Path) -> None:
    write(folder / "photos", *RUN, "labels/my.jpg")
    (folder / "link").symlink_to(folder / "photos")
    wanted = [*IMAGES, "photos/labels/my.jpg", "photos/out/old.jpg"]
    wanted += [f"photos/out/{name}" for name in RUN]
    assert listed("photos", "photos") == sorted(wanted, key=os.fsencode)
    assert len(listed("link", "photos")) == len(wanted)
    assert listed("photos/*.jpg", "photos") == ["photos/a.jpg", "photos/out.jpg"]
    assert listed("photos/z", "photos") == ["photos/z/c.jpg"]


def test_a_bucket_is_like_a_folder(s3: Bucket) -> None:
    s3.write({f"{name}": b"x" for name in (*IMAGES, "photos/out/run.json")})
    output = OutputFolder(f"{s3.url}/photos/out")
    for location in (f"{s3.url}/photos", f"{s3.url}/photos/**", f"{s3.url}/"):
        refs = list_images(location, own_files(location, output))
        assert [ref.uri.removeprefix(f"{s3.url}/") for ref in refs] == list(IMAGES)


def test_sets_of_images_do_not_mix_with_the_collection(folder: Path) -> None:
    for location in (
        "photos",
        "photos/",
        "photos/**",
        "photos/*/b.jpg",
        "photos/z*/**",
        str(folder / "photos"),
    ):
        with pytest.raises(OutputError, match=r"/photos' is the input's own: choose another"):
            list_images_outside(location, OutputFolder("photos"))
    for location in ("photos/*.jpg", "photos/z", "photos/a.jpg"):
        assert list_images_outside(location, OutputFolder("photos"))
    assert list_images_outside("photos", OutputFolder("photos/out"))
