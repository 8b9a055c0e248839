"""Whatever images are called, each gets a file of its own, on any disk."""

import errno
import os
from pathlib import Path

import pytest
from compressions import files, manifest, run
from corpora import tar_of_members
from jpegs import encode, photo, save

from pipeline.degrade import compress
from pipeline.pairs.recompress import drawn_qualities, open_rgb


def test_a_name_that_no_file_can_have_costs_nothing_else(tmp_path: Path) -> None:
    data = encode(photo(40, 50))
    names = ("x.jpg", "x.jpg/y.jpg", "n" * 300 + ".jpg", "../../z.jpg", "/z.jpg")
    (tmp_path / "in.tar").write_bytes(tar_of_members([(name, data) for name in names]))
    output = tmp_path / "a" / "b" / "out"
    assert run(tmp_path / "in.tar", output, "--quality", "10", "--workers", "1") == 0
    assert sorted(files(output)) == ["q10/x.jpg", "q10/z-2.jpg", "q10/z.jpg"]
    bad = [row["error"] for row in manifest(output) if row["status"] == "rejected"]
    assert bad == [
        f"the output can hold no file of its name: {why}"
        for why in ("File exists", "File name too long")
    ]
    assert list(tmp_path.rglob("z*.jpg")) == list((output / "q10").glob("z*.jpg"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ])
def test_a_name_that_the_outputs_disk_refuses_costs_nothing_else(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As exFAT and NTFS refuse a colon, and names that are no Unicode."""
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if ":" in Path(target).name:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", refuse)
    data = encode(photo(40, 50))
    (tmp_path / "in.tar").write_bytes(tar_of_members([("12:30.jpg", data), ("x.jpg", data)]))
    assert run(tmp_path / "in.tar", tmp_path / "out", "--quality", "10") == 0
    assert sorted(files(tmp_path / "out")) == ["q10/x.jpg"]
    [bad] = [row for row in manifest(tmp_path / "out") if row["path"] is None]
    assert bad["error"] == f"the output can hold no file of its name: {os.strerror(number)}"


def test_images_of_one_name_get_a_file_each(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pictures = [photo(40 + 8 * seed, 56, seed) for seed in range(8)]
    jpegs = [encode(picture) for picture in pictures]
    (folder / "a.tar").write_bytes(tar_of_members([("000.jpg", jpegs[0]), ("000.jpg", jpegs[1])]))
    (folder / "b.tar").write_bytes(tar_of_members([("000.jpg", jpegs[2]), ("abs/x.jpg", jpegs[3])]))
    (folder / "c.tar").write_bytes(tar_of_members([("/abs/x.jpg", jpegs[4])]))
    (folder / "d.png").write_bytes(save(pictures[5], "PNG"))
    (folder / "d.png.jpg").write_bytes(jpegs[6])
    (folder / "e.jpg").write_bytes(jpegs[7])
    for _ in range(2):  # the second time everything is there
        assert run(folder, output, "--quality", "10", "--times", "1") == 0
        rows = [row for row in manifest(output) if row["set"] == "q10"]
        names = ["000.jpg", "000-2.jpg", "000-3.jpg", "abs/x.jpg", "abs/x-2.jpg"]
        names += ["d.png.jpg", "d.png-2.jpg", "e.jpg"]
        assert [row["path"] for row in rows] == [f"q10/{name}" for name in names]
        for name, data in zip(names, jpegs[:5], strict=False):
            assert (output / "q10" / name).read_bytes() == compress(open_rgb(data), 10)
        drawn = {row["path"]: row["qualities"] for row in manifest(output)}
        for name in ("000.jpg", "e.jpg"):
            assert drawn[f"times1/{name}"] == list(drawn_qualities(name, 0, 1))


def test_names_that_differ_in_case_get_a_file_each(tmp_path: Path) -> None:
    """The output may be on a disk that ignores case, where the second would replace the first."""
    upper, lower = photo(40, 56), photo(48, 56, 1)
    (tmp_path / "in.tar").write_bytes(
        tar_of_members([("A.jpg", encode(upper)), ("a.jpg", encode(lower))])
    )
    assert run(tmp_path / "in.tar", tmp_path / "out", "--quality", "10", "--times", "1") == 0
    for name, picture in (("A.jpg", upper), ("a-2.jpg", lower)):
        original = open_rgb(encode(picture))
        assert (tmp_path / "out/q10" / name).read_bytes() == compress(original, 10)
    drawn = {row["path"]: row["qualities"] for row in manifest(tmp_path / "out")}
    assert drawn["times1/a-2.jpg"] == list(drawn_qualities("a.jpg", 0, 1))
