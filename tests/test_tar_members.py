"""Links, sparse files and tars behind one another: every image is listed, and reads as it is."""

import gzip
import io
import itertools
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from corpora import listed_tar, make_tar

from pipeline.inputs.tar_members import members_of
from pipeline.inputs.tar_source import TarReader
from pipeline.records import Container


def test_files_and_links_to_them_are_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "empty.jpg"):
        (folder / name).write_bytes(b"" if name == "empty.jpg" else os.fsencode(name))
    links = {"link.jpg": "sub/b.jpg", "sub/up.jpg": "../a.jpg"}
    links |= {"folder": "sub", "gone.jpg": "nowhere.jpg", "out.jpg": "../../etc/hosts"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.link(folder / "a.jpg", folder / "z_hard.jpg")
    os.mkfifo(folder / "pipe")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(folder, "in")
    data = (tmp_path / "x.tar").read_bytes()
    for packed in (data, gzip.compress(data)):
        refs = {ref.uri.removeprefix("x#in/"): ref for ref in listed_tar(packed)}
        reader = TarReader(io.BytesIO(packed), listed_tar(packed)[0].container or Container.TAR)
        contents = {name: reader.read(ref) for name, ref in refs.items()}
        assert contents == {
            "a.jpg": b"a.jpg",
            "z_hard.jpg": b"a.jpg",
            "sub/up.jpg": b"a.jpg",
            "sub/b.jpg": b"sub/b.jpg",
            "link.jpg": b"sub/b.jpg",
            "empty.jpg": b"",
        }


def tar_of(*members: tarfile.TarInfo | str) -> bytes:
    """Files are given by their names, which are their contents."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member in members:
            if isinstance(member, str):
                content, member = member.encode(), tarfile.TarInfo(member)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                archive.addfile(member)
    return made.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_are_listed_in_their_places() -> None:
    data = tar_of(
        *(link("0.jpg", "b.jpg", tarfile.SYMTYPE), "./a.jpg", link("1.jpg", "a.jpg"), "b.jpg"),
        *(link("2.jpg", "1.jpg"), link("sub/3.jpg", "../2.jpg", tarfile.SYMTYPE), "c.jpg"),
    )
    reader = TarReader(io.BytesIO(data), Container.TAR)
    found = {ref.uri.removeprefix("x#"): reader.read(ref) for ref in listed_tar(data)}
    a, b, c = b"./a.jpg", b"b.jpg", b"c.jpg"
    expected = {"0.jpg": b, "./a.jpg": a, "1.jpg": a, "b.jpg": b, "2.jpg": a, "sub/3.jpg": a}
    assert list(found.items()) == list((expected | {"c.jpg": c}).items())


def test_a_hard_link_is_to_the_last_file_of_that_name_before_it() -> None:
    data = bytearray(tar_of("a.jpg", link("1.jpg", "a.jpg"), "a.jpg", link("2.jpg", "a.jpg")))
    first, of_first, second, of_second = listed_tar(bytes(data))
    assert (of_first.offset, of_second.offset) == (first.offset, second.offset)
    assert first.offset != second.offset


def assert_told(data: bytes, name: str, reason: str, other: bytes) -> None:
    """Of two members the first has a row that says why, and the second its bytes."""
    lost, found = listed_tar(data)
    reader = TarReader(io.BytesIO(data), Container.TAR)
    assert (lost.uri, lost.offset) == (f"x#{name}", None)
    with pytest.raises(OSError, match=reason):
        reader.read(lost)
    assert reader.read(found) == other


def test_a_hard_link_to_nothing_is_a_row_that_says_so() -> None:
    data = tar_of(link("1.jpg", "a.jpg"), "a.jpg")
    assert_told(data, "1.jpg", "a link without a target before it", b"a.jpg")


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax", "--sparse-version=0.0"],
                                     ["--format=pax", "--sparse-version=1.0"]])  # fmt: skip
def test_a_sparse_file_is_a_row_that_says_so(tmp_path: Path, options: list[str]) -> None:
    """Its holes are not in the tar: a range of it would be other bytes."""
    with (tmp_path / "holes.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "z.jpg").write_bytes(b"z")
    command = ["tar", "-cf", "x.tar", "--sparse", *options, "holes.jpg", "z.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    data = (tmp_path / "x.tar").read_bytes()
    assert len(data) < 1 << 20
    assert_told(data, "holes.jpg", "it is a sparse file", b"z")


def test_tars_one_behind_the_other_are_one_collection() -> None:
    """As `cat a.tar b.tar` makes them: each but the last has its end marks in the middle."""
    tars = [make_tar(["a.jpg", "b.jpg"]), make_tar([]), make_tar(["c.jpg"], tarfile.PAX_FORMAT)]
    plain = b"".join(tars)
    for data in (plain, gzip.compress(plain), b"".join(map(gzip.compress, tars))):
        refs = listed_tar(data)
        assert [ref.uri for ref in refs] == ["x#a.jpg", "x#b.jpg", "x#c.jpg"]
        reader = TarReader(io.BytesIO(data), refs[0].container or Container.TAR)
        assert [reader.read(ref) for ref in refs] == [n * 3 for n in (b"a.jpg", b"b.jpg", b"c.jpg")]


def test_what_follows_a_tar_and_is_none_is_refused() -> None:
    sound = make_tar(["a.jpg"])
    for rest in (b"x", b"x" * 5000, make_tar(["b.jpg"])[3:]):
        for data in (sound + rest, gzip.compress(sound) + gzip.compress(rest)):
            with pytest.raises(tarfile.TarError, match=f"no tar header at byte {len(sound)}:"):
                listed_tar(data)
    assert len(listed_tar(sound + bytes(3_000_100))) == 1


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(**attributes: str) -> bytes:
    """A member's header behind one with its attributes; "__" stands for a point."""
    info = tarfile.TarInfo("b.jpg")
    info.pax_headers = {name.replace("__", "."): value for name, value in attributes.items()}
    return info.tobuf(tarfile.PAX_FORMAT)


GLOBAL = tarfile.TarInfo.create_pax_global_header
CRAFTED = {
    "a negative size": header("b.jpg", -512),
    "a negative size in a pax header": pax(size="-1536"),
    "a negative size for all members": GLOBAL({"size": "-512"}) + header("b.jpg"),
    "a negative size under a global one": GLOBAL({"GNU.sparse.size": "9"}) + header("b.jpg", -512),
    "a name of negative length": header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
    "a size that is no number": pax(GNU__sparse__size="zz"),
    "a map that is no number": pax(GNU__sparse__map="1,zz"),
    "a long name for a long name": header("L", 0, tarfile.GNUTYPE_LONGNAME) * 3000,
    "attributes for all members": GLOBAL({f"x{n}": "" for n in range(20_000)}) + header("b.jpg"),
    "more and more attributes for all": b"".join(
        GLOBAL({f"x{n}.{i}": "" for i in range(500)}) + header("b.jpg") for n in range(20)
    ),
}


@pytest.mark.parametrize("crafted", CRAFTED.values(), ids=CRAFTED.keys())
def test_a_crafted_header_is_damage(crafted: bytes) -> None:
    """Of a negative size, tarfile goes back and finds the same members for ever."""
    file = io.BytesIO(make_tar(["a.jpg"])[:1024] + crafted + bytes(1024))
    with pytest.raises(tarfile.ReadError, match="damaged"):
        list(itertools.islice(members_of(file), 1000))


def test_what_git_archive_says_of_all_members_is_no_damage() -> None:
    data = GLOBAL({"comment": "5" * 40}) + header("b.jpg") + bytes(1024)
    assert [ref.uri for ref in listed_tar(data)] == ["x#b.jpg"]
