"""Images come in order, read ahead but not too far, and one that cannot be read says so."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from jpegs import encode, photo

from pipeline import read_ahead
from pipeline.read_ahead import ReadAhead
from pipeline.records import Container, ImageRef, Status
from pipeline.screen import Limits

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
