"""Images come in order, read ahead but not too far, and one that cannot be read says so."""

import gzip
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from corpora import made_tar, parquet
from jpegs import encode, photo
from servers import Answer, Bucket, Proxy, Request, WebServer, use_s3

from pipeline import image_bytes, read_ahead
from pipeline.attempts import AccessError
from pipeline.read_ahead import ReadAhead, StoreDownError
from pipeline.records import Container, ImageRef, Status
from pipeline.screen import Limits
from pipeline.sources import list_images

JPEG = encode(photo(16, 16))


def written(folder: Path, count: int) -> list[ImageRef]:
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(JPEG)
    return [ImageRef(str(folder / f"{number:03d}.jpg")) for number in range(count)]


def reading(
    refs: Sequence[ImageRef], *, num_threads: int = 3, max_images: int = 32, max_pixels: int = 10**8
) -> ReadAhead:
    return ReadAhead(refs, Limits(max_pixels), num_threads=num_threads, max_images=max_images)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_every_image_comes_once_in_order(tmp_path: Path, count: int) -> None:
    images = list(reading(written(tmp_path, count)))
    assert [image.row for image in images] == list(range(count))
    for image in images:
        assert (image.data, image.num_bytes, image.size) == (JPEG, len(JPEG), (16, 16))
        assert image.status == Status.OK


def test_images_are_screened_by_the_stated_limits(tmp_path: Path) -> None:
    (image,) = reading(written(tmp_path, 1), max_pixels=255)
    assert image.status == Status.REJECTED
    assert (image.error or "").endswith("over --max-pixels 255")


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
    refs[25] = ImageRef("x.tar#1.jpg", str(tmp_path / "000.jpg"), Container.TAR, 5, 10**6)
    images = list(reading(refs))
    errors = {i.row: i.error for i in images if i.status == Status.UNREADABLE}
    assert errors.pop(25) == (
        f"{tmp_path / '000.jpg'} ends inside this member: it has changed since planning"
    )
    assert errors == {
        3: "No such file or directory",
        20: "Is a directory",
        21: "Too many levels of symbolic links",
        22: "not a file's path: embedded null byte",
        23: "File name too long",
        24: "Not a directory",
    }
    assert sum(i.status == Status.OK for i in images) == 40 - 7
    assert images[25].num_bytes == 10**6  # known from the plan


def test_reading_runs_ahead_of_the_use_but_not_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    taken_by_thread: set[str] = set()

    def counted(ref: ImageRef) -> bytes:
        read.append(1)
        taken_by_thread.add(threading.current_thread().name)
        return JPEG

    monkeypatch.setattr(read_ahead, "read_image", counted)
    for max_images, bound in ((64, 64), (16, 16), (1, 16)):
        read.clear()
        images = iter(reading([ImageRef("x")] * 400, max_images=max_images))
        for used in range(1, 50):
            next(images)
            deadline = time.monotonic() + 5
            while used == 1 and len(read) < min(bound + 16, 400) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(read) <= used + 15 + bound
        assert len(read) > 49
        images.close()  # type: ignore[attr-defined]
    assert threading.current_thread().name not in taken_by_thread


def test_reading_begins_when_it_is_told_to_or_with_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = written(tmp_path, 40)
    read: list[ImageRef] = []
    monkeypatch.setattr(read_ahead, "read_image", lambda ref: read.append(ref) or JPEG)
    images = reading(refs, max_images=16)
    assert not read
    images.start_early()
    deadline = time.monotonic() + 5
    while len(read) < 16 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(read) == 16
    assert [image.row for image in images] == list(range(40))


def test_whoever_waits_for_an_image_is_told_when_there_will_be_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(read_ahead, "read_image", lambda ref: stuck.wait(30) and JPEG)
    images = reading([ImageRef("x")] * 64, num_threads=1, max_images=64)
    images.start_early()
    threading.Timer(0.05, images.close).start()
    threading.Timer(0.2, stuck.set).start()
    with pytest.raises(CancelledError):
        list(images)


@pytest.mark.parametrize("name", ["a.tar", "b.tar.gz"])
def test_what_is_closed_gives_nothing_more_begun_or_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(archive_of(50)[name])
    refs = list(list_images(str(tmp_path / name)))
    images = reading(refs)
    images.start_early()
    images.close()
    with pytest.raises(CancelledError):
        next(iter(images))
    begun = reading(refs, max_images=64)
    rest = iter(begun)
    next(rest)  # all of them are being read
    begun.close()
    with pytest.raises(CancelledError):
        list(rest)


def test_how_many_images_lie_ready_says_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [ImageRef("x")] * 160
    monkeypatch.setattr(read_ahead, "read_image", lambda ref: time.sleep(0.002) or JPEG)
    slow = reading(refs, max_images=64, num_threads=1)
    assert len(list(slow)) == 160
    monkeypatch.setattr(read_ahead, "read_image", lambda ref: JPEG)
    fast = reading(refs, max_images=64)
    for _ in fast:
        time.sleep(0.002)
    assert slow.mean_ready < 16 < 32 < fast.mean_ready <= 64


@pytest.mark.parametrize("planned", [None, len(JPEG)])
def test_what_waits_is_bounded_in_bytes_too(
    monkeypatch: pytest.MonkeyPatch, planned: int | None
) -> None:
    read: list[int] = []
    monkeypatch.setattr(read_ahead, "read_image", lambda ref: read.append(1) or JPEG)
    monkeypatch.setattr(read_ahead, "_MOST_BYTES_AHEAD", 100 * len(JPEG))
    refs = [ImageRef("x", num_bytes=planned)] * 2000
    images = iter(reading(refs, max_images=1600, num_threads=5))
    for used in range(1, 300):
        next(images)
        time.sleep(0.0005)
        # Each thread may have begun its sixteen when there was room for them.
        assert len(read) <= used + 15 + 100 + 16 * 5
    assert sum(1 for _ in images) == 2000 - 299
    images = iter(reading(refs, max_images=1600, num_threads=5))
    next(images)
    images.close()  # type: ignore[attr-defined]  # nobody waits for room for ever


def test_stopping_early_ends_the_threads(tmp_path: Path) -> None:
    images = iter(reading(written(tmp_path, 100)))
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("read")]


def test_the_threads_seconds_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(ref: ImageRef) -> bytes:
        time.sleep(0.002)
        return JPEG

    monkeypatch.setattr(read_ahead, "read_image", slow)
    ahead = reading([ImageRef("x")] * 32, num_threads=2)
    assert len(list(ahead)) == 32
    assert 32 * 0.002 <= ahead.read_s < 5
    assert 0 < ahead.screen_s < 5


# Elsewhere


@pytest.fixture
def many(s3: Bucket) -> list[ImageRef]:
    """Forty images in a bucket, each of another width."""
    s3.write({f"{row:02d}.jpg": encode(photo(16, 16 + row)) for row in range(40)})
    return list(list_images(s3.url))


def widths(ahead: ReadAhead) -> list[int | None]:
    return [image.size[1] if image.size else None for image in ahead]


def test_objects_are_read_side_by_side_and_come_in_order(
    many: list[ImageRef], s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(s3_url)
    together = threading.Barrier(20, timeout=10)
    original = proxy.answer

    def answer(request: Request) -> Answer:
        together.wait()  # twenty requests are under way at once, or none is answered
        return original(request)

    proxy.answer = answer  # type: ignore[method-assign]
    on_disk = written(tmp_path, 20)
    with proxy.running():
        use_s3(proxy.url, monkeypatch)
        mixed = [*many[:20], *on_disk, *many[20:]]
        expected = [*range(16, 36), *[16] * 20, *range(36, 56)]
        assert widths(reading(mixed, max_images=60, num_threads=1)) == expected


@pytest.mark.usefixtures("persistent")
def test_no_image_is_lost_to_what_passes_and_one_that_stays_away_costs_itself(
    many: list[ImageRef], s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(s3_url)
    with proxy.running():
        use_s3(proxy.url, monkeypatch)
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
    many: list[ImageRef], s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(s3_url)
    with proxy.running():
        use_s3(proxy.url, monkeypatch)
        for fault, error, message in [
            (
                "503:SlowDown",
                StoreDownError,
                "32 images in a row, the last: HTTP 503 SlowDown; tried",
            ),
            ("403:AccessDenied", StoreDownError, "32 images in a row, the last: HTTP 403 Access"),
            ("403:ExpiredToken", AccessError, "HTTP 403 ExpiredToken"),
        ]:
            proxy.faults = {"jpg": [fault] * 1000}
            with pytest.raises(error, match=message):
                list(reading(many))
        proxy.faults = {"jpg": ["404:NoSuchKey"] * 40}  # gone: that is said of each
        assert {image.error for image in reading(many)} == {"HTTP 404 NoSuchKey"}


@pytest.mark.usefixtures("persistent")
def test_strangers_that_are_down_cost_their_images() -> None:
    web = WebServer({})
    web.faults = {"jpg": ["500:"] * 1000}
    with web.running():
        refs = [ImageRef(f"{web.url}/{row}.jpg") for row in range(40)]
        images = list(reading(refs))
    assert {image.status for image in images} == {Status.UNREADABLE}


# Archives


def archive_of(count: int) -> dict[str, bytes]:
    """The same images in each kind of archive, each of another width."""
    jpegs = {f"{row}.jpg": encode(photo(16, 16 + row)) for row in range(count)}
    tar = made_tar(jpegs)
    table = parquet(image=list(jpegs.values()))
    return {"a.tar": tar, "b.tar.gz": gzip.compress(tar), "c.parquet": table}


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


@pytest.mark.parametrize(("name", "early"), [("a.tar", True), ("b.tar.gz", False)])
def test_an_archive_that_is_read_from_its_start_is_left_to_the_shard_before(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, early: bool
) -> None:
    files = archive_of(50)
    s3.write(files)
    refs = list(list_images(f"{s3.url}/{name}"))
    opened: list[str] = []
    open_input = image_bytes.open_input
    monkeypatch.setattr(image_bytes, "_READERS", image_bytes._Readers())
    monkeypatch.setattr(
        image_bytes, "open_input", lambda url: opened.append(url) or open_input(url)
    )
    before, after = (reading(refs[start:][:25]) for start in (0, 25))
    before.start_early()
    after.start_early()
    assert widths(before) + widths(after) == list(range(16, 66))
    assert len(opened) == (2 if early else 1)


@pytest.mark.usefixtures("persistent")
def test_an_archive_that_cannot_be_read_now_fails_the_shard(
    s3: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.write(archive_of(50))
    proxy = Proxy(s3_url)
    with proxy.running():
        use_s3(proxy.url, monkeypatch)
        refs = list(list_images(f"{s3.url}/a.tar"))
        proxy.faults = {"a.tar": ["503:SlowDown", "cut"]}
        assert widths(reading(refs)) == list(range(16, 66))
        monkeypatch.setattr(image_bytes, "_READERS", image_bytes._Readers())  # in another worker
        proxy.faults = {"a.tar": ["503:SlowDown"] * 3}
        with pytest.raises(StoreDownError, match=r"a.tar#0.jpg cannot be read: HTTP 503 SlowDown"):
            list(reading(refs))
