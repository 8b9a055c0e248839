"""Removed files are told from disks and folders that are not there any more."""

import shutil
from pathlib import Path

import pytest
from servers import Bucket

from jobs.labelling.mounts import InputWitnesses, NotMountedError, existing_input_files
from pipeline.output import OutputFolder
from pipeline.records import Container, ImageRef
from pipeline.shards import Plan, write_plan

NUM = 9  # images in a folder


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path]:
    """Two mount points with nine images each, and nine more in a folder `more` of each."""
    places = tmp_path / "in" / "a", tmp_path / "in" / "b"
    for place in places:
        (place / "more").mkdir(parents=True)
        for number in range(NUM):
            (place / f"{number}.jpg").touch()
            (place / "more" / f"{number}.jpg").touch()
    return places


def unmount(place: Path) -> None:
    """An empty folder is left, as at a mount point."""
    shutil.rmtree(place)
    place.mkdir()


def refs(*folders: Path) -> list[ImageRef]:
    return [ImageRef(f"{folder}/{number}.jpg") for folder in folders for number in range(NUM)]


def statuses(images: list[ImageRef]) -> list[str]:
    return ["ok" if Path(ref.source or ref.uri).exists() else "unreadable" for ref in images]


def witnesses(images: list[ImageRef], output: Path) -> InputWitnesses:
    return InputWitnesses(files_of(images, output))


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
    InputWitnesses(()).check_shard(remote, ["unreadable", "unreadable"])


def test_a_disk_that_is_unmounted_is_told_from_removed_files(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    images = refs(*disks)
    found = witnesses(images, tmp_path / "out")
    for number in (0, 1, 2, 3, 12):
        Path(images[number].uri).unlink()
    found.check_shard(images, statuses(images))
    found.check_shard(images[:3], statuses(images[:3]))  # all of a shard's
    unmount(disks[1])
    for part in (images, images[9:12]):
        with pytest.raises(NotMountedError, match=r"/b/0.jpg' does not exist .*: mount the input"):
            found.check_shard(part, statuses(part))
    found.check_shard(images[:9], statuses(images[:9]))


@pytest.mark.parametrize("sampled", [True, False])
def test_a_disk_that_is_lost_while_a_shard_is_read_is_noticed(
    sampled: bool, disks: tuple[Path, Path], tmp_path: Path
) -> None:
    """Some of its images were read, and are not there any more either."""
    images = refs(*disks)
    found = witnesses(images if sampled else images[:9], tmp_path / "out")
    half_read = [*statuses(images[:14]), *["unreadable"] * 4]
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/b/5.jpg' does not exist"):
        found.check_shard(images, half_read)


def test_an_input_that_is_moved_is_not_taken_for_removed_files(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    images = refs(disks[0] / "more")
    found = witnesses(images, tmp_path / "out")
    half_read = ["ok"] * 5 + ["unreadable"] * 4
    (disks[0] / "more").rename(disks[0] / "less")
    for part, said in ((images, half_read), (images[3:6], ["unreadable"] * 3)):
        with pytest.raises(NotMountedError, match=r"/a/more/\d.jpg' does not exist"):
            found.check_shard(part, said)
    again = witnesses(refs(disks[0] / "less", disks[0] / "more"), tmp_path / "again")
    again.check_shard(images, ["unreadable"] * 9)  # so the command, repeated, goes on


def test_what_was_never_there_is_no_lost_disk(disks: tuple[Path, Path], tmp_path: Path) -> None:
    """As a mistyped line of a manifest, also where one of the files near it has been removed."""
    images = refs(disks[0])
    found = witnesses(images, tmp_path / "out")
    Path(images[0].uri).unlink()
    for name in ("/dev/shm/gone.jpg", "/dtaa/x.jpg", f"{disks[0].parent}/typo/1.jpg", "/# end"):
        dead = [*images, ImageRef(name)]
        found.check_shard(dead, statuses(dead))
        found.check_shard(dead[-1:], ["unreadable"])
        InputWitnesses(()).check_shard(dead[-1:], ["unreadable"])


def test_links_are_followed_to_the_disks_that_they_lead_to(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for number in range(2 * NUM):
        (links / f"{number}.jpg").symlink_to(disks[number % 2] / f"{number // 2}.jpg")
    images = [ImageRef(f"{links}/{number}.jpg") for number in range(2 * NUM)]
    found = witnesses(images, tmp_path / "out")
    (disks[1] / "0.jpg").unlink()
    found.check_shard(images, statuses(images))
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/links/1.jpg' does not exist"):
        found.check_shard(images, statuses(images))


def test_a_missing_archive_is_as_missing_as_a_file(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    (disks[1] / "9.tar").touch()
    members = [ImageRef("b.tar#0", f"{disks[1]}/9.tar", Container.TAR, 0, 7)]
    found = witnesses([*refs(disks[0]), *members], tmp_path / "out")
    (disks[1] / "9.tar").unlink()
    found.check_shard(members, ["unreadable"])
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/b/9.tar' does not exist"):
        found.check_shard(members, ["unreadable"])


def test_a_node_that_sees_nothing_of_the_input_labels_nothing(
    disks: tuple[Path, Path], tmp_path: Path
) -> None:
    files = files_of(refs(*disks), tmp_path / "out")
    Path(files[0]).unlink()
    unmount(disks[1])
    assert InputWitnesses(files)  # a node that lacks one disk finds out when it should read it
    unmount(disks[0])
    with pytest.raises(NotMountedError, match=r"/a/0.jpg' does not exist"):
        InputWitnesses(files)


def test_what_a_worker_has_read_counts_later(disks: tuple[Path, Path]) -> None:
    images = refs(*disks)
    found = InputWitnesses([images[0].uri])
    found.check_shard(images[9:12], ["ok"] * 3)
    unmount(disks[1])
    with pytest.raises(NotMountedError, match=r"/b/3.jpg' does not exist"):
        found.check_shard(images[12:15], ["unreadable"] * 3)
