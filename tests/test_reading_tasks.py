"""Images are read wherever they are, and one that cannot be says so."""

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from corpora import parquet
from jpegs import encode, photo
from reading import archive_of, reading, widths, written
from servers import Answer, Bucket, Proxy, Request, WebServer

from pipeline.inputs import image_bytes
from pipeline.reading import reading_tasks
from pipeline.reading.reading_tasks import StoreDownError
from pipeline.records import Container, EncodedImage, ImageRef, Status
from pipeline.screening.screen import Limits
from pipeline.sources import list_images
from pipeline.stores.errors import AccessError, TooLargeError


def test_images_are_screened_by_the_stated_limits(tmp_path: Path) -> None:
    (image,) = reading(written(tmp_path, 1), max_pixels=255)
    assert image.status == Status.REJECTED
    assert (image.error or "").endswith("over --max-pixels 255")


def test_a_defect_of_screening_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shard fails: the image has to be found among thousands."""

    def defective(image: EncodedImage, limits: Limits) -> None:
        if image.row == 5:
            raise OverflowError("too large")

    monkeypatch.setattr(reading_tasks, "screen", defective)
    refs = written(tmp_path, 8)
    with pytest.raises(RuntimeError, match=r"005\.jpg cannot be checked: OverflowError: too large"):
        list(reading(refs))


def test_what_cannot_be_read_says_why_and_costs_no_other(tmp_path: Path) -> None:
    refs = written(tmp_path, 40)
    (tmp_path / "003.jpg").unlink()
    (tmp_path / "020.jpg").unlink()
    (tmp_path / "020.jpg").mkdir()
    (tmp_path / "021.jpg").unlink()
    (tmp_path / "021.jpg").symlink_to("021.jpg")
    refs[22] = ImageRef(str(tmp_path / "null\0byte.jpg"))
    refs[23] = ImageRef(str(tmp_path / ("long" * 100)))
    refs[24] = ImageRef(str(tmp_path / "000.jpg" / "below_a_file.jpg"))
    refs[25] = ImageRef("x.tar#1.jpg", str(tmp_path / "000.jpg"), Container.TAR, 512, 10**6)
    images = list(reading(refs))
    errors = {i.row: i.error for i in images if i.status == Status.UNREADABLE}
    assert errors.pop(25) == (
        f"{tmp_path / '000.jpg'} ends inside this member: it has changed since planning"
    )
    assert errors == {
        3: "No such file or directory",
        20: "Is a directory",
        21: "Too many levels of symbolic links",
        22: "not a valid path: embedded null byte",
        23: "File name too long",
        24: "Not a directory",
    }
    assert sum(i.status == Status.OK for i in images) == 40 - 7
    assert images[25].num_bytes == 10**6  # known from the plan


@pytest.fixture
def many(s3: Bucket) -> list[ImageRef]:
    """Forty images in a bucket, each of another width."""
    s3.write({f"{row:02d}.jpg": encode(photo(16, 16 + row)) for row in range(40)})
    return list(list_images(s3.url))


def test_objects_are_read_side_by_side_and_come_in_order(
    many: list[ImageRef], proxy: Proxy, tmp_path: Path
) -> None:
    together = threading.Barrier(20, timeout=10)
    original = proxy.answer

    def answer(request: Request) -> Answer:
        together.wait()  # twenty requests are under way at once, or none is answered
        return original(request)

    proxy.answer = answer  # type: ignore[method-assign]
    on_disk = written(tmp_path, 20)
    mixed = [*many[:20], *on_disk, *many[20:]]
    expected = [*range(16, 36), *[16] * 20, *range(36, 56)]
    assert widths(reading(mixed, max_images=60, num_threads=1)) == expected


@pytest.mark.usefixtures("persistent")
def test_no_image_is_lost_to_what_passes_and_one_that_stays_away_costs_itself(
    many: list[ImageRef], proxy: Proxy
) -> None:
    passing = ["503:SlowDown", "reset", "cut", "reset-midway"]
    proxy.faults = {f"{row:02d}.jpg": [passing[row % 4]] for row in range(38)}
    proxy.faults |= {"38.jpg": ["stall"], "39.jpg": ["stall-midway"]}
    assert widths(reading(many, max_images=64)) == list(range(16, 56))
    assert not any(proxy.faults.values())
    proxy.faults = {"07.jpg": ["503:SlowDown"] * 3, "08.jpg": ["403:AccessDenied"]}
    images = list(reading(many, max_images=64))
    errors = {image.row: image.error or "" for image in images if image.status != Status.OK}
    assert errors.keys() == {7, 8}
    assert errors[7].startswith("HTTP 503 SlowDown; tried 3 times in")
    assert errors[8] == "HTTP 403 AccessDenied"
    assert {image.status for image in images if image.error} == {Status.UNREADABLE}


@pytest.mark.usefixtures("persistent")
def test_a_store_that_is_down_fails_the_shard_and_not_its_images(
    many: list[ImageRef], proxy: Proxy
) -> None:
    for fault, error, message in [
        (
            "503:SlowDown",
            StoreDownError,
            "8 images in a row, the last: HTTP 503 SlowDown; tried",
        ),
        ("403:AccessDenied", StoreDownError, "32 images in a row, the last: HTTP 403 Access"),
        ("403:ExpiredToken", AccessError, "HTTP 403 ExpiredToken"),
    ]:
        proxy.faults = {"jpg": [fault] * 1000}
        with pytest.raises(error, match=message):
            list(reading(many))
    proxy.faults = {"jpg": ["404:NoSuchKey"] * 40}  # gone: that is said of each
    assert {image.error for image in reading(many)} == {"HTTP 404 NoSuchKey"}
    proxy.faults = {"jpg": ["403:InvalidObjectState"] * 40}  # in cold storage: so is that
    errors = {image.error or "" for image in reading(many)}
    assert errors == {
        "HTTP 403 InvalidObjectState: it is in cold storage, and must be restored first"
    }


@pytest.mark.usefixtures("persistent")
def test_a_store_that_is_down_fails_a_small_shard_too(many: list[ImageRef], proxy: Proxy) -> None:
    """Its rows would be final; the last shard of a collection is often small."""
    proxy.faults = {"jpg": ["403:AccessDenied"] * 1000}
    with pytest.raises(StoreDownError, match="8 images in a row, the last: HTTP 403 Access"):
        list(reading(many[:8]))
    images = list(reading(many[:7]))  # so few may be the only ones; the run must finish
    assert {image.status for image in images} == {Status.UNREADABLE}


def test_files_that_are_too_large_say_nothing_about_their_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty films in a bucket would fail their shard at each attempt."""

    def refuse(ref: ImageRef, *_: int) -> bytes:
        raise TooLargeError("2147483648 bytes: at most 1073741824 are read at once")

    monkeypatch.setattr(reading_tasks, "read_image", refuse)
    for num_bytes in (2 << 30, None):
        images = list(reading([ImageRef("s3://bucket/film.mp4", num_bytes=num_bytes)] * 40))
        assert {image.status for image in images} == {Status.UNREADABLE}
        assert (images[0].error or "").startswith("2147483648 bytes: at most 1073741824")


@pytest.mark.usefixtures("persistent")
def test_objects_that_fail_among_others_cost_only_their_rows(
    many: list[ImageRef], proxy: Proxy
) -> None:
    proxy.faults = {r"[02468]\.jpg": ["503:SlowDown"] * 1000}
    statuses = [image.status for image in reading(many[:40])]
    assert statuses == [Status.UNREADABLE, Status.OK] * 20


@pytest.mark.usefixtures("persistent")
def test_strangers_that_are_down_cost_their_images() -> None:
    web = WebServer({})
    web.faults = {"jpg": ["500:"] * 1000}
    with web.running():
        refs = [ImageRef(f"{web.url}/{row}.jpg") for row in range(40)]
        images = list(reading(refs))
    assert {image.status for image in images} == {Status.UNREADABLE}


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_archives_are_read_in_order_and_stay_open_for_the_next_shard(
    s3: Bucket, tmp_path: Path, where: str
) -> None:
    files = archive_of(50)
    s3.write(files)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        refs = list(list_images(f"{s3.url if where == 's3' else tmp_path}/{name}"))
        assert widths(reading(refs)) == list(range(16, 66))
        found = [width for start in (0, 20, 40) for width in widths(reading(refs[start:][:20]))]
        assert found == list(range(16, 66))


@pytest.mark.usefixtures("persistent")
def test_an_archive_that_cannot_be_read_now_fails_the_shard(
    s3: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.write(archive_of(50))
    refs = list(list_images(f"{s3.url}/a.tar"))
    proxy.faults = {"a.tar": ["503:SlowDown", "cut"]}
    assert widths(reading(refs)) == list(range(16, 66))
    monkeypatch.setattr(image_bytes, "_CACHE", image_bytes._ReaderCache())  # in another worker
    proxy.faults = {"a.tar": ["503:SlowDown"] * 3}
    with pytest.raises(StoreDownError, match=r"a.tar#0.jpg cannot be read: HTTP 503 SlowDown"):
        list(reading(refs))
    proxy.faults = {"a.tar": ["403:AccessDenied"]}
    with pytest.raises(StoreDownError, match=r"a.tar#0.jpg cannot be read: HTTP 403 AccessDenied"):
        list(reading(refs))
    monkeypatch.setattr(image_bytes, "_CACHE", image_bytes._ReaderCache())
    proxy.faults = {"a.tar": ["404:NoSuchKey"] * 500}  # gone: that is said of each
    assert {image.error for image in reading(refs)} == {"HTTP 404 NoSuchKey"}


BAD_SECTOR = "/proc/self/mem"  # to `stat` a file like any other; its first byte cannot be read: EIO


def break_file(ref: ImageRef) -> None:
    Path(ref.uri).unlink()
    Path(ref.uri).symlink_to(BAD_SECTOR)


def test_a_bad_sector_costs_its_image_and_a_disk_that_fails_the_shard(tmp_path: Path) -> None:
    """A row is final: of a disk that came back, all that was read meanwhile would be lost."""
    refs = written(tmp_path, 40)
    for ref in refs[10:17]:
        break_file(ref)
    bad = [image for image in reading(refs) if image.status != Status.OK]
    assert [image.row for image in bad] == list(range(10, 17))
    assert {(image.status, image.error) for image in bad} == {
        (Status.UNREADABLE, "Input/output error")
    }
    break_file(refs[17])
    last = rf"^8 images in a row, the last: Input/output error \({refs[17].uri}\)$"
    with pytest.raises(StoreDownError, match=last):
        list(reading(refs))


@pytest.mark.parametrize(
    ("number", "of_all"),
    [
        *[(number, True) for number in (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)],
        *[(number, True) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)],
        *[(number, False) for number in (errno.ENOENT, errno.EISDIR, errno.EINVAL)],
        *[(number, False) for number in (errno.EACCES, errno.EPERM)],  # as one user's folder
    ],
)
def test_what_the_system_says_is_of_one_file_or_of_all(
    monkeypatch: pytest.MonkeyPatch, number: int, of_all: bool
) -> None:
    def refuse(location: str, *_: int) -> bytes:
        raise OSError(number, os.strerror(number), location)

    monkeypatch.setattr(image_bytes, "read", refuse)
    ahead = reading([ImageRef(f"/{row}.jpg") for row in range(40)])
    if of_all:
        with pytest.raises(StoreDownError, match=f"^8 images .*: {os.strerror(number)}"):
            list(ahead)
    else:
        assert {image.error for image in ahead} == {os.strerror(number)}


def test_a_tar_on_a_disk_that_fails_fails_the_shard() -> None:
    plain = [ImageRef(f"a.tar#{n}.jpg", BAD_SECTOR, Container.TAR, 512, 9) for n in range(40)]
    with pytest.raises(StoreDownError, match="8 images in a row, the last: Input/output error"):
        list(reading(plain))
    assert {image.error for image in reading(plain[:7])} == {"Input/output error"}
    compressed = [ImageRef("b.tar.gz#0.jpg", BAD_SECTOR, Container.TAR_GZ, 512, 9)]
    with pytest.raises(StoreDownError, match=r"b.tar.gz#0.jpg cannot be read: Input/output error"):
        list(reading(compressed))


class FailingDisk(io.FileIO):
    """A file whose second quarter cannot be read, while it fails."""

    fails = True

    def readinto(self, buffer: Any, /) -> int | None:
        size, start = os.fstat(self.fileno()).st_size, self.tell()
        if self.fails and start < size // 2 and start + len(buffer) > size // 4:
            raise OSError(errno.EIO, "Input/output error")
        return super().readinto(buffer)


def test_a_row_group_on_a_disk_that_fails_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegs = [encode(photo(160, 160 + row)) for row in range(50)]
    (tmp_path / "c.parquet").write_bytes(parquet(image=jpegs))
    refs = list(list_images(str(tmp_path / "c.parquet")))

    def opened(location: str) -> BinaryIO:
        return io.BufferedReader(FailingDisk(location), 512)

    monkeypatch.setattr(image_bytes, "open_input", opened)
    with pytest.raises(StoreDownError, match=r"c.parquet#\d+ cannot be read: Input/output error"):
        list(reading(refs))
    monkeypatch.setattr(FailingDisk, "fails", False)
    assert widths(reading(refs)) == list(range(160, 210))
