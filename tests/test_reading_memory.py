"""What waits to be used is bounded in images and in bytes, wherever it is read from."""

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from reading import JPEG, reading, written
from servers import WebServer

from pipeline.inputs import image_bytes
from pipeline.reading import reading_tasks
from pipeline.records import ImageRef, Status
from pipeline.screening.screen import Limits


@pytest.mark.parametrize("planned", [None, len(JPEG)])
def test_what_waits_is_bounded_in_bytes_too(
    monkeypatch: pytest.MonkeyPatch, planned: int | None
) -> None:
    read: list[int] = []
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: read.append(1) or JPEG)
    monkeypatch.setattr(reading_tasks, "_MAX_BYTES_AHEAD", 100 * len(JPEG))
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


def test_who_waits_for_room_is_sent_home_when_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads nothing more, even where an image is taken into use meanwhile."""
    read: list[str] = []
    waits = threading.Event()

    def first_of_the_third_task_waits(ref: ImageRef) -> bytes:
        read.append(ref.uri)
        if ref.uri == "32":
            waits.wait(10)
        return JPEG

    monkeypatch.setattr(reading_tasks, "read_image", first_of_the_third_task_waits)
    tasks = reading_tasks.ReadPool(
        [ImageRef(str(row)) for row in range(48)], Limits(10**8), num_threads=2, num_readers=0
    )
    first, *_ = [tasks.submit(range(start, start + 16)) for start in (0, 16, 32)]
    loaded = first.result()
    while "32" not in read:
        time.sleep(0.001)
    monkeypatch.setattr(reading_tasks, "_MAX_BYTES_AHEAD", -1)
    closing_it = threading.Thread(target=tasks.close, daemon=True)
    closing_it.start()
    while not tasks._pool._shutdown:
        time.sleep(0.001)
    tasks.mark_used(loaded)
    waits.set()
    closing_it.join(5)
    assert not closing_it.is_alive()
    assert "33" not in read


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[ImageRef]:
    """Which images have been read so far."""
    read: list[ImageRef] = []
    original = image_bytes.read_image
    monkeypatch.setattr(reading_tasks, "read_image", lambda ref: read.append(ref) or original(ref))
    return read


def test_what_waits_is_bounded_where_only_the_disk_knows_the_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted_reads(monkeypatch)
    monkeypatch.setattr(reading_tasks, "_MAX_BYTES_AHEAD", 4 * len(JPEG))
    with closing(reading(written(tmp_path, 200), max_images=160, num_threads=5)) as ahead:
        images = iter(ahead)
        for used in range(1, 60):
            next(images)
            time.sleep(0.001)
            # The rest of its task, the next one, what there is room for, and one of each thread.
            assert len(read) <= used + 15 + 16 + 4 + 5
        assert sum(1 for _ in images) == 200 - 59


def test_what_waits_is_bounded_where_no_listing_told_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All readers would begin at once, before any of them knows how much is coming."""
    read: list[ImageRef] = []

    def counted(ref: ImageRef, *limits: int) -> bytes:
        data = image_bytes.read_image(ref, *limits)
        read.append(ref)
        return data

    monkeypatch.setattr(reading_tasks, "read_image", counted)
    monkeypatch.setattr(reading_tasks, "_MAX_BYTES_AHEAD", 400_000)
    monkeypatch.setattr(reading_tasks, "_UNKNOWN_SIZES", (1000, 10_000, 120_000), raising=False)
    large = JPEG + bytes(100_000)
    web = WebServer({f"/{row}.jpg": JPEG if row < 20 else large for row in range(60)})
    with web.running():
        refs = [ImageRef(f"{web.url}/{row}.jpg") for row in range(60)]
        with closing(reading(refs, max_images=60)) as ahead:
            images = iter(ahead)
            for used in range(1, 50):
                next(images)
                time.sleep(0.002)
                # What there is room for, the last that found some, and the next that is used.
                assert sum(ref in refs[max(used, 20) :] for ref in read) <= 4 + 1 + 1
            assert {image.status for image in images} == {Status.OK}
    assert len(read) == 60
    asked = [request.path for request in web.requests]
    assert [asked.count(f"/{row}.jpg") for row in (0, 19)] == [1, 1]


def test_where_there_are_large_files_the_next_is_asked_for_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading_tasks, "_UNKNOWN_SIZES", (10, 20, 30, 2000))
    web = WebServer({"/large.jpg": bytes(25), "/small.jpg": b"small"})
    with web.running():
        refs = [ImageRef(f"{web.url}/{name}.jpg") for name in ("large", "large", "small", "large")]
        tasks = reading_tasks.ReadPool(refs, Limits(10**8), num_threads=1, num_readers=1)
        loaded = tasks.submit(range(4)).result()
        tasks.close()
    assert [image.num_bytes for image in loaded.images] == [25, 25, 5, 25]
    asked = [request.path for request in web.requests]
    assert asked == ["/large.jpg"] * 3 + ["/large.jpg"] * 2 + ["/small.jpg"] + ["/large.jpg"] * 3


def test_room_is_taken_before_a_file_is_read_and_given_back_with_its_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs, taken = written(tmp_path, 20), []
    tasks = reading_tasks.ReadPool(refs, Limits(10**8), num_threads=1, num_readers=0)
    monkeypatch.setattr(reading_tasks, "read_image", lambda _: taken.append(tasks._bytes) or JPEG)
    for rows in (range(16), range(16, 20)):
        tasks.mark_used(tasks.submit(rows).result())
        assert tasks._bytes == 0
    tasks.close()
    assert taken == [len(JPEG) * count for count in (*range(1, 17), *range(1, 5))]


def test_what_is_no_image_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted_reads(monkeypatch)
    monkeypatch.setattr(reading_tasks, "_MAX_BYTES_AHEAD", 1 << 16)
    (tmp_path / "film.mp4").write_bytes(bytes(1 << 16))
    with closing(reading([ImageRef(str(tmp_path / "film.mp4"))] * 64, max_images=64)) as films:
        films.start_early()
        deadline = time.monotonic() + 5
        while len(read) < 64 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(read) == 64
        assert {image.status for image in films} == {Status.REJECTED}
