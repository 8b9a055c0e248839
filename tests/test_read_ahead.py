"""Images come in order, read ahead but not too far, and no more once nobody wants them."""

import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from reading import JPEG, archive_of, reading, widths, written
from servers import Bucket

from pipeline.inputs import image_bytes
from pipeline.reading import read_ahead, reading_tasks
from pipeline.records import ImageRef, Status
from pipeline.sources import list_images


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_every_image_comes_once_in_order(tmp_path: Path, count: int) -> None:
    images = list(reading(written(tmp_path, count)))
    assert [image.row for image in images] == list(range(count))
    for image in images:
        assert (image.data, image.num_bytes, image.size) == (JPEG, len(JPEG), (16, 16))
        assert image.status == Status.OK


def test_reading_runs_ahead_of_the_use_but_not_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    taken_by_thread: set[str] = set()

    def counted(ref: ImageRef) -> bytes:
        read.append(1)
        taken_by_thread.add(threading.current_thread().name)
        return JPEG

    monkeypatch.setattr(reading_tasks, "read_image", counted)
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


def test_members_that_fill_the_memory_are_not_read_sixteen_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_ahead, "_MAX_BYTES_PER_TASK", 100)
    refs = [ImageRef("x", num_bytes=size) for size in (40, 40, 40, 300, 60, 40, 1, *[0] * 30)]
    assert [len(rows) for rows in read_ahead._runs(refs)] == [2, 1, 1, 2, 16, 15]


def test_files_count_as_large_as_the_first_of_their_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's listing has no sizes: sixteen photographs of 80 MB would be in memory at once."""
    monkeypatch.setattr(read_ahead, "_MAX_BYTES_PER_TASK", 100)
    refs = []
    for k, size in enumerate((60, 60, 30, 1, 0, 0, *[1] * 20)):
        (tmp_path / f"{k}.jpg").write_bytes(bytes(size))
        refs.append(ImageRef(str(tmp_path / f"{k}.jpg")))
    assert [len(rows) for rows in read_ahead._runs(refs)] == [1, 1, 3, 16, 5]


def test_reading_begins_when_it_is_told_to_or_with_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = written(tmp_path, 40)
    read: list[ImageRef] = []
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: read.append(ref) or JPEG)
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
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: stuck.wait(30) and JPEG)
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


def test_what_is_closed_while_its_last_image_is_read_gives_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or its shard would be labelled and committed after all."""
    closing = threading.Timer(0.1, lambda: images.close())

    def read_to_the_end(ref: ImageRef) -> bytes:
        closing.start()
        while not images._closed:
            time.sleep(0.001)
        return JPEG

    monkeypatch.setattr(reading_tasks, "read_image", read_to_the_end)
    images = reading([ImageRef("x")])
    with pytest.raises(CancelledError):
        list(images)
    closing.join()


def test_closed_while_more_is_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: JPEG)
    images = reading([ImageRef("x")] * 160, max_images=16)
    monkeypatch.setattr(reading_tasks.ReadPool, "mark_used", lambda *_: images.close())
    with pytest.raises(CancelledError):
        list(images)


def test_how_many_images_lie_ready_says_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [ImageRef("x")] * 160
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: time.sleep(0.002) or JPEG)
    slow = reading(refs, max_images=64, num_threads=1)
    assert len(list(slow)) == 160
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: JPEG)
    fast = reading(refs, max_images=64)
    for _ in fast:
        time.sleep(0.002)
    assert slow.mean_ready < 16 < 32 < fast.mean_ready <= 64


def test_stopping_early_ends_the_threads(tmp_path: Path) -> None:
    images = iter(reading(written(tmp_path, 100)))
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("read")]


def test_the_threads_seconds_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(ref: ImageRef) -> bytes:
        time.sleep(0.002)
        return JPEG

    monkeypatch.setattr(reading_tasks, "read_image", slow)
    ahead = reading([ImageRef("x")] * 32, num_threads=2)
    assert len(list(ahead)) == 32
    assert 32 * 0.002 <= ahead.read_s < 5
    assert 0 < ahead.screen_s < 5


@pytest.mark.parametrize(("name", "early"), [("a.tar", True), ("b.tar.gz", False)])
def test_an_archive_that_is_read_from_its_start_is_left_to_the_shard_before(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, early: bool
) -> None:
    files = archive_of(50)
    s3.write(files)
    refs = list(list_images(f"{s3.url}/{name}"))
    opened: list[str] = []
    open_input = image_bytes.open_input
    monkeypatch.setattr(image_bytes, "_CACHE", image_bytes._ReaderCache())
    monkeypatch.setattr(
        image_bytes, "open_input", lambda url: opened.append(url) or open_input(url)
    )
    before, after = (reading(refs[start:][:25]) for start in (0, 25))
    before.start_early()
    after.start_early()
    assert widths(before) + widths(after) == list(range(16, 66))
    assert len(opened) == (2 if early else 1)
