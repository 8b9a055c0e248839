"""Removed files are told from disks that are not there, by real disks."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Bucket

from jobs.labelling.mounts import InputDisks, NotMountedError, existing_input_files
from pipeline.output import OutputFolder
from pipeline.records import Container, ImageRef
from pipeline.shards import Plan, write_plan

OTHER_DISK = Path("/dev/shm")  # in memory, on Linux


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two mount points, on the disk of `tmp_path`, of folders on another disk with nine images."""
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second disk")
    places = tmp_path / "a", tmp_path / "b"
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as folder:
        for place in places:
            disk = Path(folder) / place.name
            (disk / "more").mkdir(parents=True)
            for number in range(9):
                (disk / f"{number}.jpg").touch()
                (disk / "more" / f"{number}.jpg").touch()
            place.symlink_to(disk)
        yield places


def unmount(place: Path) -> None:
    place.unlink()
    place.mkdir()


def refs(*folders: Path) -> list[ImageRef]:
    return [ImageRef(f"{folder}/{number}.jpg") for folder in folders for number in range(9)]


def statuses(images: list[ImageRef]) -> list[str]:
    return ["ok" if Path(ref.uri).exists() else "unreadable" for ref in images]


def files_of(images: list[ImageRef], output: Path) -> tuple[str, ...]:
    """Those that a driver sees, with three images in a shard."""
    folder = OutputFolder(str(output))
    folder.create()
    write_plan(folder, images, 3)
    return existing_input_files(Plan(folder))


def test_a_driver_knows_files_all_over_the_input(disks: tuple[Path, Path], tmp_path: Path) -> None:
    images = refs(*disks)
    Path(images[0].uri).unlink()
    assert files_of(images, tmp_path / "out") == tuple(
        images[number].uri for number in (1, 3, 6, 9, 12, 15)
    )
    unmount(disks[0])
    found = files_of(images, tmp_path / "later")
    assert found == tuple(images[number].uri for number in (9, 12, 15))


def test_of_remote_images_a_driver_knows_no_files(s3: Bucket, tmp_path: Path) -> None:
    remote = [ImageRef(f"{s3.url}/0.jpg"), ImageRef(f"{s3.url}/a.tar#1", f"{s3.url}/a.tar")]
    assert files_of(remote, tmp_path / "out") == ()
    InputDisks(()).check_shard(remote, ["unreadable", "unreadable"])


def test_a_disk_that_is_unmounted_is_told_from_removed_files(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    images = refs(*disks)
    found = InputDisks(files_of(images, tmp_path / "out"))
    for number in (0, 1, 2, 3, 12):
        Path(images[number].uri).unlink()
    found.check_shard(images, statuses(images))
    found.check_shard(images[:3], statuses(images[:3]))  # all of a shard's
    unmount(disks[1])
    for part in (images, images[9:12]):
        with pytest.raises(NotMountedError, match=r"/b/0.jpg' does not exist .*: mount the input"):
            found.check_shard(part, statuses(part))
    found.check_shard(images[:9], statuses(images[:9]))


def test_a_folder_that_is_removed_is_no_disk(disks: tuple[Path, Path], tmp_path: Path) -> None:
    images = refs(disks[0] / "more", disks[1])
    found = InputDisks(files_of(images, tmp_path / "out"))
    shutil.rmtree(disks[0] / "more")
    found.check_shard(images[:9], statuses(images[:9]))


def test_an_input_that_is_moved_is_not_taken_for_removed_files(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    images = refs(disks[0] / "more")
    found = InputDisks(files_of(images, tmp_path / "out"))
    (disks[0] / "more").rename(disks[0] / "less")
    with pytest.raises(NotMountedError, match=r"/a/more/3.jpg' does not exist"):
        found.check_shard(images[3:6], statuses(images[3:6]))


def test_a_missing_archive_is_as_missing_as_a_file(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    (disks[1] / "9.tar").touch()
    images = [*refs(disks[0])]
    members = [ImageRef("b.tar#0", f"{disks[1]}/9.tar", Container.TAR, 0, 7)]
    found = InputDisks(files_of([*images, *members], tmp_path / "out"))
    (disks[1] / "9.tar").unlink()
    found.check_shard(members, ["unreadable"])
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/b/9.tar' does not exist"):
        found.check_shard(members, ["unreadable"])


def test_a_node_that_lacks_one_of_the_disks_labels_nothing(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also where the driver was continued without it, once an image of it should be read."""
    images = refs(*disks)
    files = files_of(images, tmp_path / "out")
    Path(files[0]).unlink()
    InputDisks(files)
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/b/0.jpg' does not exist"):
        InputDisks(files)
    continued = InputDisks(files_of(images, tmp_path / "out2"))
    with pytest.raises(NotMountedError, match=r"/b/0.jpg' does not exist"):
        continued.check_shard(images[9:], statuses(images[9:]))


def test_a_disk_that_no_sampled_file_is_on_is_known_once_it_was_read(
    disks: tuple[Path, Path],
) -> None:
    images = refs(*disks)
    found = InputDisks([images[0].uri])
    Path(images[9].uri).unlink()
    found.check_shard(images[9:], statuses(images[9:]))
