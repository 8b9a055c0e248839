"""What a collection lists, in which order, and that a reference reads the bytes it stands for."""

import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.records import ImageRef
from pipeline.sources import SourceError, list_images, read_image

NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff.jpg")


def write(folder: Path, *names: str) -> None:
    """Files whose content is their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def listed(location: Path | str, below: Path) -> list[str]:
    """The URIs, relative to `below`; each must read."""
    return [ref.uri.removeprefix(f"{below}/") for ref in list_images(str(location))]


# Folders


def test_a_folder_is_listed_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    names = ["a.jpg", "a/z.jpg", "a/b/c.jpg", "a-b.jpg", "a0.jpg", "B.jpg", ".hidden.jpg", "é.jpg"]
    names += [".hidden/x.jpg", "no extension", "notes.txt", "a b/c d.jpg", "a#1/?.jpg"]
    write(tmp_path, *names)
    (tmp_path / "empty folder").mkdir()
    assert listed(tmp_path, tmp_path) == sorted(names, key=os.fsencode)
    for ref in list_images(str(tmp_path)):
        assert read_image(ref) == os.fsencode(ref.uri.removeprefix(f"{tmp_path}/"))


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
    found = [os.fsencode(path) for path in listed(folder, folder)]
    everything = [os.fsencode(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert found == sorted(everything)


def test_a_relative_folder_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    for location in ("photos", "./photos/", "photos/../photos"):
        assert [ref.uri for ref in list_images(location)] == [f"{tmp_path}/photos/a.jpg"]


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
    assert listed(tmp_path / "in", tmp_path / "in") == expected
    for name in ("gone.jpg", "itself"):
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            read_image(ImageRef(str(tmp_path / "in" / name)))


def test_names_that_are_not_utf8_go_round_as_uris(tmp_path: Path) -> None:
    write(tmp_path, NOT_UTF8, "100% é.jpg")
    manifest = tmp_path / "list.txt"
    manifest.write_bytes(os.fsencode(NOT_UTF8) + b"\n")
    (tmp_path / "in a tar").mkdir()
    plain, escaped = list_images(str(tmp_path / "*.jpg"))
    assert plain.uri == str(tmp_path / "100% é.jpg")
    assert escaped.uri == f"file://{tmp_path}/caf%E9%20%FF.jpg"
    assert read_image(escaped) == b"caf\xe9 \xff.jpg"
    assert list(list_images(str(manifest))) == [escaped]
    manifest.write_text(escaped.uri)  # and a manifest may hold such a URI
    assert list(list_images(str(manifest))) == [escaped]


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
        "s*": None,
        "*.gif": None,
        "[x]/f.jpg": ["[x]/f.jpg"],  # exists under this very name
    }.items():
        if expected is not None:
            assert listed(tmp_path / pattern, tmp_path) == expected
            continue
        with pytest.raises(SourceError, match="no files in"):
            listed(tmp_path / pattern, tmp_path)


def test_a_relative_glob_where_the_folders_own_name_looks_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "photos [2024]/a.jpg")
    monkeypatch.chdir(tmp_path / "photos [2024]")
    assert listed("*.jpg", tmp_path) == ["photos [2024]/a.jpg"]


def test_a_glob_does_not_go_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/sub/b.jpg")
    (tmp_path / "in/sub/parent").symlink_to("..")
    (tmp_path / "in/also").symlink_to("sub")  # two ways into the loop: glob.glob never ends
    expected = ["a.jpg", "also/b.jpg", "sub/b.jpg"]
    assert listed(tmp_path / "in/**/*.jpg", tmp_path / "in") == expected
    # A loop in the part that was written out is the user's own way to name the folder.
    spelled = tmp_path / "in/sub/parent/sub"
    assert listed(spelled / "*.jpg", spelled) == ["b.jpg"]


# Manifests


def test_a_text_manifest(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "lists/b.jpg", "with space .jpg", "é.jpg")
    entries = ["../a.jpg", f"{tmp_path}/a.jpg", "b.jpg", "", "missing.jpg", "../with space .jpg"]
    entries += ["../é.jpg", "../a.jpg", ".."]
    manifest = tmp_path / "lists" / "list.txt"
    folder = tmp_path / "lists"
    expected = [f"{folder}/{e}" if e != f"{tmp_path}/a.jpg" else e for e in entries if e]
    for encoded in (
        "\n".join(entries).encode(),
        "\r\n".join([*entries, ""]).encode(),
        b"\xef\xbb\xbf" + "\n".join(entries).encode(),  # as Windows' editors begin a file
    ):
        manifest.write_bytes(encoded)
        refs = list(list_images(str(manifest)))
        assert [ref.uri for ref in refs] == expected
        assert [read_image(ref) for ref in refs[:3]] == [b"a.jpg", b"a.jpg", b"lists/b.jpg"]
    with pytest.raises(FileNotFoundError):
        read_image(refs[3])
    with pytest.raises(IsADirectoryError):
        read_image(refs[-1])


@pytest.mark.parametrize(
    "columns",
    [
        {"path": ["a.jpg", None, "", "b.jpg"], "caption": ["x", "y", "z", "w"]},
        {"caption": ["x", "y"], "uri": ["a.jpg", "b.jpg"], "file": ["no", "no"]},
        {"whatever": ["a.jpg", "b.jpg"], "label": [1, 2]},
        {"label": [1, 2], "image.path": ["a.jpg", "b.jpg"]},
        {"path": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(), "caption": ["x", "y"]},
        {"path": pa.array(["a.jpg", "b.jpg"], pa.large_string()), "caption": ["x", "y"]},
        {"path": [1, 2], "url": ["a.jpg", "b.jpg"]},
    ],
    ids=lambda columns: "-".join(columns),
)
def test_a_parquet_manifest(tmp_path: Path, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list")
    assert listed(tmp_path / "list", tmp_path) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("columns", [{"left": ["a"], "right": ["b"]}, {"label": [1]}, {}])
def test_a_parquet_manifest_without_a_clear_column_is_refused(
    tmp_path: Path, columns: dict[str, object]
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list")
    found = ", ".join(columns) or "no columns"
    with pytest.raises(SourceError, match=f"name one of its string columns 'path'.*{found}"):
        list(list_images(str(tmp_path / "list")))


def test_a_damaged_parquet_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list"
    pq.write_table(pa.table({"path": [f"{i}.jpg" for i in range(5000)]}), path)
    whole = path.read_bytes()
    pages = len(whole) // 2
    for damaged in (whole[:-10], whole[:4] + bytes(pages) + whole[4 + pages :]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match="cannot read the manifest"):
            list(list_images(str(path)))


def test_a_null_byte_in_a_manifest_costs_one_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a\0.jpg", "b.jpg"]}), tmp_path / "list")
    bad, good = list_images(str(tmp_path / "list"))
    assert good.uri == f"{tmp_path}/b.jpg"
    with pytest.raises(OSError, match="null byte"):
        read_image(bad)


# Tars


def tar(path: Path, names: list[str], tar_format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            content = os.fsencode(name) * 3
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_a_tars_members_read_as_tarfile_reads_them(tmp_path: Path, tar_format: int) -> None:
    long_names = [] if tar_format == tarfile.USTAR_FORMAT else ["d" * 90 + "/" + "n" * 200, "é.jpg"]
    names = ["b.jpg", "a.jpg", "./sub/c.jpg", "no extension", "b.jpg", *long_names]
    path = tmp_path / "x.tar"
    tar(path, names, tar_format)
    refs = list(list_images(str(path)))
    assert [ref.uri for ref in refs] == [f"{path}#{name}" for name in names]
    assert {ref.source for ref in refs} == {str(path)}
    with tarfile.open(path) as archive:
        for ref, member in zip(refs, archive.getmembers(), strict=True):
            assert read_image(ref) == archive.extractfile(member).read()  # type: ignore[union-attr]
            assert ref.num_bytes == member.size


def test_only_a_tars_files_are_images(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/sub/b.jpg", "in/empty.jpg")
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "in/a.jpg", tmp_path / "in/z_hard.jpg")
    os.mkfifo(tmp_path / "in/pipe")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "in", "in")
    names = {name.split("#")[1] for name in listed(tmp_path / "x.tar", tmp_path)}
    assert names == {"in/a.jpg", "in/empty.jpg", "in/sub/b.jpg"}


def test_a_tar_without_the_name_is_known_by_its_content(tmp_path: Path) -> None:
    tar(tmp_path / "archive", ["a.jpg"])
    assert listed(tmp_path / "archive", tmp_path) == ["archive#a.jpg"]


def test_a_name_in_a_tar_that_is_not_utf8(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", [NOT_UTF8])
    (ref,) = list_images(str(tmp_path / "x.tar"))
    ref.uri.encode("utf-8")
    assert read_image(ref) == os.fsencode(NOT_UTF8) * 3


def test_a_tar_inside_a_folder_glob_or_manifest_is_expanded(tmp_path: Path) -> None:
    write(tmp_path, "in/a.jpg", "in/z.jpg")
    tar(tmp_path / "in/m.tar", ["1.jpg", "2.jpg"])
    (tmp_path / "in/folder.tar").mkdir()  # a folder of that name is a folder
    write(tmp_path, "in/folder.tar/f.jpg")
    inside = ["m.tar#1.jpg", "m.tar#2.jpg"]
    expected = ["a.jpg", "folder.tar/f.jpg", *inside, "z.jpg"]
    assert listed(tmp_path / "in", tmp_path / "in") == expected
    assert listed(tmp_path / "in/*.tar", tmp_path / "in") == inside
    manifest = tmp_path / "in/list"
    manifest.write_text("z.jpg\nm.tar\na.jpg\n")
    assert listed(manifest, tmp_path / "in") == ["z.jpg", *inside, "a.jpg"]


def test_a_tar_that_changes_after_planning_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    tar(path, ["a.jpg", "b.jpg"])
    *_, last = list_images(str(path))
    path.write_bytes(path.read_bytes()[: (last.offset or 0) + 3])
    with pytest.raises(OSError, match="it has changed since planning"):
        read_image(last)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_image(last)


def test_a_damaged_tar_is_refused_and_never_listed_short(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    tar(path, [f"{i}.jpg" for i in range(5)])
    whole = path.read_bytes()  # five members of a header and a block each, then zeros
    header = 2 * 1024
    flipped = whole[: header + 10] + b"\xff" + whole[header + 11 :]
    damaged = {
        "in a header": flipped,
        "ends inside a header": whole[: header + 200],
        "ends inside a member": whole[: header + 512 + 3],
        "is no tar at all": b"<html>",
    }
    for data in damaged.values():
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"cannot list the tar '/.*x.tar'"):
            list(list_images(str(path)))
    for sound in (whole, whole[: 5 * 1024], whole[: 5 * 1024 + 512]):  # end marks are optional
        path.write_bytes(sound)
        assert len(list(list_images(str(path)))) == 5


def test_memory_does_not_grow_with_a_tars_members(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    with path.open("wb") as file:
        for number in range(3000):
            file.write(tarfile.TarInfo(f"{number:06d}.jpg").tobuf())
        file.write(bytes(1024))
    refs = list_images(str(path))
    for _ in range(100):
        next(refs)
    tracemalloc.start()
    try:
        assert sum(1 for _ in refs) == 2900
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000  # tarfile itself would keep some 1,000 bytes a member


# Everything else


def test_one_image_is_a_collection_of_one(tmp_path: Path) -> None:
    for name, content in {
        "a": b"\xff\xd8\xff\xe0",
        "b": b"\x89PNG\r\n\x1a\n\0\0\0",
        "c.jpg": b"<html>",
        "d.JPEG": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert listed(tmp_path / name, tmp_path) == [name]
        assert listed(f"file://{tmp_path}/{name}", tmp_path) == [name]


def test_what_cannot_be_listed_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b\x08\0")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "remote.txt").write_text("s3://bucket/a.jpg\n")
    cases = {
        str(tmp_path / "gone"): "no such file or folder: '/.*gone'",
        str(tmp_path / "empty"): "no files in .*: give a folder, glob, manifest or tar",
        str(tmp_path / "blank.txt"): "no files in",
        str(tmp_path / "x.tar.gz"): r"is compressed \(gzip\): decompress it first",
        str(tmp_path / "remote.txt"): "'s3://bucket/a.jpg': s3:// is not supported yet",
        "s3://bucket/folder": "'s3://bucket/folder': s3:// is not supported yet, give a path",
        "gs://bucket/*.jpg": "gs:// is not supported yet",
    }
    for location, message in cases.items():
        with pytest.raises(SourceError, match=message) as caught:
            list(list_images(location))
        assert "\n" not in str(caught.value)


def test_listing_needs_no_decoder() -> None:
    """The driver lists; it must start without DALI and PyTorch."""
    code = "import sys, pipeline.sources, pipeline.shards; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
