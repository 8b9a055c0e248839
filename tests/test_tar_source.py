"""A tar's members are listed in order and read as tarfile reads them, gzip or not, or refused."""

import gzip
import io
import os
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from corpora import listed_tar, make_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inputs.image_bytes import read_image
from pipeline.inputs.tar_source import TAR_ERRORS, TarReader, container_of, list_tar
from pipeline.records import Container

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff.jpg")


def names_of(data: bytes) -> list[str]:
    return [ref.uri.removeprefix("x#") for ref in listed_tar(data)]


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gz"])
def test_members_read_as_tarfile_reads_them(compress: object, tar_format: int) -> None:
    long_names = [] if tar_format == tarfile.USTAR_FORMAT else ["d" * 90 + "/" + "n" * 200, "é.jpg"]
    names = ["b.jpg", "a.jpg", "./sub/c.jpg", "no extension", "b.jpg", *long_names]
    data = compress(make_tar(names, tar_format))  # type: ignore[operator]
    refs = listed_tar(data)
    assert [ref.uri for ref in refs] == [f"x#{name}" for name in names]
    assert {ref.source for ref in refs} == {"x"}
    reader = TarReader(io.BytesIO(data), refs[0].container or Container.TAR)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for ref, member in zip(refs, archive.getmembers(), strict=True):
            assert reader.read(ref) == archive.extractfile(member).read()  # type: ignore[union-attr]
            assert ref.num_bytes == member.size
            assert reader.position == (ref.offset or 0) + member.size
    assert reader.read(refs[1]) == b"a.jpg" * 3  # back again


def test_the_name_or_the_content_tells_a_tar() -> None:
    plain = make_tar(["a.jpg"])
    packed = gzip.compress(plain)
    for name, data, expected in [
        ("x", plain, Container.TAR),
        ("x.tar", b"<html>", Container.TAR),
        ("X.Tar", b"<html>", Container.TAR),
        ("X.TGZ", gzip.compress(b""), Container.TAR_GZ),
        ("x", packed, Container.TAR_GZ),
        ("x.tar", packed, Container.TAR_GZ),
        ("x.tgz", gzip.compress(b""), Container.TAR_GZ),
        ("x.tar.gz", plain, Container.TAR),
        ("x.gz", gzip.compress(b"text"), None),
        ("x.gz", b"\x1f\x8bbroken", None),
        ("x", b"", None),
        ("x.jpg", b"\xff\xd8", None),
    ]:
        assert container_of(name, data[:512]) == expected


@pytest.mark.parametrize(
    ("members", "images"),
    [
        (["0.jpg", "0.json", "0.txt", "1.json", "1.jpg"], ["0.jpg", "1.jpg"]),
        (["0.cls", "0.left.jpg", "0.right.png"], ["0.left.jpg", "0.right.png"]),
        (["a/0.JPG", "a/0.json", "b/0.json"], ["a/0.JPG", "b/0.json"]),  # another key: a row
        (["0.json", "1.jpg", "1.json", "0.jpg"], ["0.json", "1.jpg", "0.jpg"]),  # not adjacent
        ([".jpg", ".json"], [".jpg", ".json"]),
        (["0", "0.jpg", "1", "1.bin"], ["0.jpg", "1", "1.bin"]),
    ],
)
def test_what_belongs_to_an_image_of_a_webdataset_is_no_image(
    members: list[str], images: list[str]
) -> None:
    assert names_of(make_tar(members)) == images


_MEMBER = st.builds(
    "{}{}".format,
    st.sampled_from(["a", "b", "a/b", "."]),
    st.sampled_from([".jpg", ".json", ".x.png", "", ".jpeg"]),
)


@settings(deadline=None)
@given(members=st.lists(_MEMBER, max_size=8))
def test_no_image_is_ever_left_out(members: list[str]) -> None:
    found = names_of(make_tar(members)) if members else []
    rest = iter(members)
    assert all(name in rest for name in found)  # in order
    for suffix in (".jpg", ".png", ".jpeg"):
        count = sum(name.endswith(suffix) for name in members)
        assert sum(name.endswith(suffix) for name in found) == count


def test_a_name_that_is_not_utf8() -> None:
    data = make_tar([NOT_UTF8])
    (ref,) = listed_tar(data)
    ref.uri.encode("utf-8")
    assert TarReader(io.BytesIO(data), Container.TAR).read(ref) == os.fsencode(NOT_UTF8) * 3


def test_a_damaged_tar_is_never_listed_short() -> None:
    whole = make_tar([f"{i}.jpg" for i in range(5)])  # a header and a block each, then zeros
    header = 2 * 1024
    flipped = whole[: header + 10] + b"\xff" + whole[header + 11 :]
    for damaged in (flipped, whole[: header + 200], whole[: header + 512 + 3]):
        with pytest.raises(TAR_ERRORS):
            listed_tar(damaged)
        with pytest.raises(TAR_ERRORS):
            listed_tar(gzip.compress(damaged))
    for sound in (whole, whole[: 5 * 1024], whole[: 5 * 1024 + 512]):  # end marks are optional
        assert len(listed_tar(sound)) == len(listed_tar(gzip.compress(sound))) == 5


def test_damaged_gzip_is_never_listed_short() -> None:
    packed = gzip.compress(make_tar([f"{i}.jpg" for i in range(500)]))
    changed = bytes([packed[-6] ^ 1])  # of the checksum
    holed = packed[: len(packed) // 2] + bytes(40) + packed[len(packed) // 2 + 40 :]
    for damaged in (
        packed[:-9],
        packed[: len(packed) // 2],
        holed,
        packed[:-6] + changed + packed[-5:],
    ):
        with pytest.raises(TAR_ERRORS):
            listed_tar(damaged)


def test_what_a_small_archive_claims_does_not_fill_the_memory() -> None:
    """Gzip packs a gigabyte of zeros into a megabyte."""
    data = gzip.compress(make_tar(["a.jpg"]))
    (ref,) = listed_tar(data)
    reader = TarReader(io.BytesIO(data), Container.TAR_GZ)
    with pytest.raises(OSError, match=f"{1 << 40} bytes: at most"):
        reader.read(replace(ref, num_bytes=1 << 40))
    assert reader.read(ref) == b"a.jpg" * 3
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 1 << 32
        with pytest.raises(TAR_ERRORS, match=f"{1 << 32} bytes: damaged"):
            listed_tar(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


def test_gzip_in_several_pieces_is_one_tar() -> None:
    """As pigz and bgzip write it."""
    whole = make_tar([f"{i}.jpg" for i in range(50)])
    packed = b"".join(gzip.compress(whole[at : at + 1000]) for at in range(0, len(whole), 1000))
    refs = listed_tar(packed)
    reader = TarReader(io.BytesIO(packed), Container.TAR_GZ)
    assert [reader.read(ref) for ref in refs] == [b"%d.jpg" % i * 3 for i in range(50)]


def test_damage_that_shows_later_costs_the_images_behind_it_once() -> None:
    names = [f"{i}{os.urandom(400).hex()}.jpg" for i in range(300)]
    packed = gzip.compress(make_tar(names))
    refs = listed_tar(packed)
    reads = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal reads
            reads += 1
            return super().read(size)

    reader = TarReader(Counted(packed[: len(packed) // 2]), Container.TAR_GZ)
    errors: list[str] = []
    reads_at_first = 0
    for ref, name in zip(refs, names, strict=True):
        try:
            assert reader.read(ref) == name.encode() * 3
        except OSError as error:
            reads_at_first = reads_at_first or reads
            errors.append(str(error))
    assert 0 < len(errors) < len(names)
    assert set(errors) == {errors[0]}
    assert "the archive is damaged" in errors[0]
    assert reads == reads_at_first


def test_a_tar_that_has_become_shorter_is_told() -> None:
    data = make_tar(["a.jpg", "b.jpg"])
    *_, last = listed_tar(data)
    reader = TarReader(io.BytesIO(data[: (last.offset or 0) + 3]), Container.TAR)
    with pytest.raises(OSError, match="x ends inside this member: it has changed since planning"):
        reader.read(last)


def test_a_tar_that_was_written_again_in_another_order_is_told(tmp_path: Path) -> None:
    """Of the same length, but with other images where the plan has these."""
    names = ["1.jpg", "22.jpg", "333.jpg" * 100, "4444.jpg"]
    refs = listed_tar(make_tar(names))
    again = make_tar(names[::-1])
    assert len(again) == len(make_tar(names))
    (tmp_path / "x").write_bytes(again)
    reader = TarReader(io.BytesIO(again), Container.TAR)
    for ref in refs:
        for read in (reader.read, read_image):
            with pytest.raises(OSError, match="no such member here: it has changed since planning"):
                read(replace(ref, source=str(tmp_path / "x")))


def test_memory_does_not_grow_with_the_members() -> None:
    made = bytearray()
    for number in range(3000):
        made += tarfile.TarInfo(f"{number:06d}.jpg").tobuf()
    refs = list_tar(io.BytesIO(made + bytes(1024)), "x", "x", Container.TAR)
    for _ in range(100):
        next(refs)
    tracemalloc.start()
    try:
        assert sum(1 for _ in refs) == 2900
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000  # tarfile itself would keep some 1,000 bytes a member
