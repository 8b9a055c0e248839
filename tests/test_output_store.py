"""An output's files on a disk and in a bucket: whole or not at all, whatever the store does."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Answer, Bucket, Proxy

from pipeline.output import OutputError, OutputFolder
from pipeline.stores.errors import AccessError, StoreError, TransientStoreError
from pipeline.stores.output_store import STAGING, BucketFolder, LocalFolder, OutputStore


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OutputStore:
    if request.param == "disk":
        return LocalFolder(tmp_path)
    s3: Bucket = request.getfixturevalue("s3")
    s3.write({"runs/other/labels/a": b"another run's"})
    return BucketFolder(f"{s3.url}/runs/é %41/")


def fail_half_way(path: Path) -> None:
    path.write_bytes(b"new, but not all of it")
    raise KeyError


def test_a_file_is_there_as_it_was_written(store: OutputStore) -> None:
    for data in (b"one", b"", bytes(range(256)) * 3000):
        store.write("labels/a +&%.bin", data)
        assert store.read("labels/a +&%.bin") == data
    with pytest.raises(FileNotFoundError):
        store.read("labels/b.bin")


def test_a_file_on_a_disk_and_its_name_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order: a name that outlived its content would be a part that is not whole."""
    synced: list[str] = []
    monkeypatch.setattr(
        "os.fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    LocalFolder(tmp_path).write("labels/a.bin", b"a")
    file, folder = synced
    assert Path(file).parent == tmp_path / STAGING
    assert folder == str(tmp_path / "labels")


def test_a_staged_file_appears_when_the_block_succeeds(store: OutputStore) -> None:
    with store.staged("plan") as temporary:
        temporary.write_bytes(b"whole")
        assert "plan" not in store.modification_times("")
    assert store.read("plan") == b"whole"
    with pytest.raises(KeyError), store.staged("plan") as temporary:
        fail_half_way(temporary)
    assert store.read("plan") == b"whole"


def test_a_name_is_created_once(store: OutputStore) -> None:
    assert store.create(".attempts/part-1.d.1")
    assert not store.create(".attempts/part-1.d.1")
    assert store.create(".attempts/part-1.d.12")  # one name begins as the other
    store.remove(".attempts/part-1.d.1")
    assert store.create(".attempts/part-1.d.1")


def test_changes_are_dated_by_the_storage(store: OutputStore) -> None:
    assert store.modification_times("labels") == {}
    store.write("labels/a", b"1")
    store.write("labels/b c", b"2")
    store.write("labels/below/c", b"3")
    store.write("labelsx", b"4")
    found = store.modification_times("labels")
    assert found.keys() - {"below"} == {"a", "b c"}
    assert all(abs(changed - time.time()) < 5 for changed in found.values())
    time.sleep(1.1)  # S3's dates have whole seconds
    store.touch("labels/a", b"1")
    later = store.modification_times("labels")
    assert later["a"] > found["a"]
    assert later["b c"] == found["b c"]
    store.remove("labels/a")
    store.touch("labels/a", b"1")  # also one that was removed
    assert store.read("labels/a") == b"1"


def test_a_folder_is_discarded_with_what_is_in_it(store: OutputStore) -> None:
    for name in ("a", "b"):
        store.create(f".left/{name}")
    store.write("kept", b"")
    store.discard(".left")
    store.discard(".none")
    assert store.modification_times(".left") == {}
    assert "kept" in store.modification_times("")
    store.remove("gone")


def test_what_a_run_did_not_write_is_not_discarded(tmp_path: Path) -> None:
    """An output may be below a folder that a stranger packed, with links to anything."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    store = LocalFolder(tmp_path / "out")
    store.prepare(f"{STAGING}/below")
    store.write(f"{STAGING}/below/kept", b"")
    store.write(f"{STAGING}/left", b"")
    (tmp_path / "out" / STAGING / "link").symlink_to(other)
    store.discard(STAGING)
    assert (tmp_path / "out" / STAGING / "below/kept").exists()
    assert not (tmp_path / "out" / STAGING / "left").exists()
    (tmp_path / "out" / ".attempts").symlink_to(other)
    store.discard(".attempts")
    assert (other / "thesis.txt").exists()


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    """Its disk may be unmounted: a new folder of its name would be on another one."""
    store = LocalFolder(tmp_path / "out")
    store.prepare("labels")
    (tmp_path / "out").rename(tmp_path / "moved")
    writes: list[Callable[[], object]] = [
        lambda: store.write("run.json", b""),
        lambda: store.write("labels/a", b""),
        lambda: store.touch(".drivers/a.json", b""),
        lambda: store.create(".attempts/a.1"),
    ]
    for write in writes:
        with pytest.raises(FileNotFoundError):
            write()
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("persistent")
@pytest.mark.parametrize("fault", ["503:SlowDown", "500:InternalError", "reset", "reset-midway"])
def test_a_write_that_fails_now_and_then_succeeds(s3: Bucket, proxy: Proxy, fault: str) -> None:
    store = BucketFolder(f"{s3.url}/run")
    data = bytes(range(256)) * 2000
    proxy.faults[r"^PUT .*/run/part"] = [fault, fault]
    store.write("part", data)
    assert store.read("part") == data
    proxy.faults["run/part"] = [fault, fault]
    store.remove("part")
    assert store.modification_times("") == {}


@pytest.mark.usefixtures("impatient")
def test_a_write_that_never_succeeds_says_so_and_leaves_nothing(s3: Bucket, proxy: Proxy) -> None:
    store = BucketFolder(f"{s3.url}/run")
    proxy.faults[r"^PUT "] = ["503:SlowDown"] * 9
    with pytest.raises(TransientStoreError, match=r"HTTP 503 SlowDown; tried 3 times"):
        store.write("part", b"x")
    proxy.faults.clear()
    assert store.modification_times("") == {}


def test_an_object_is_checked_by_the_server_and_stored_by_one_request(
    s3: Bucket, proxy: Proxy
) -> None:
    BucketFolder(f"{s3.url}/run").write("part", b"x" * 100_000)
    [put] = proxy.requests
    assert put.method == "PUT"
    assert re.fullmatch(r"[\w+/]{22}==", put.headers["Content-MD5"])
    assert put.headers["Content-Length"] == "100000"
    assert "x-amz-content-sha256" in put.headers["Authorization"]


def test_a_bucket_that_is_not_there_is_named(s3: Bucket) -> None:
    with pytest.raises(AccessError, match="NoSuchBucket: there is no such bucket"):
        BucketFolder("s3://no-such-bucket-at-all/run").write("a", b"")
    output = OutputFolder("s3://no-such-bucket-at-all/run")
    message = "cannot write to labels/ in the output folder 's3://no-such-.*/run': HTTP 404"
    with pytest.raises(OutputError, match=message):
        output.create()
    OutputFolder(f"{s3.url}/run/").create()
    assert OutputFolder(f"{s3.url}/run").modification_times("") == {}


def test_which_right_is_missing_is_told(s3: Bucket, proxy: Proxy) -> None:
    output = OutputFolder(f"{s3.url}/run")
    proxy.faults = {r"^PUT ": ["403:AccessDenied"]}
    with pytest.raises(OutputError, match=r"cannot write to labels/ in the .*/run': HTTP 403"):
        output.create()
    original = proxy.answer
    proxy.answer = lambda request: (  # type: ignore[method-assign]
        Answer(403, {}) if request.method == "DELETE" else original(request)
    )
    with pytest.raises(OutputError, match=r"cannot delete from labels/ in the .*/run': HTTP 403"):
        output.create()
    proxy.faults = {"list-type": ["403:AccessDenied"]}
    with pytest.raises(StoreError, match="labels/ cannot be listed: HTTP 403 AccessDenied"):
        output.modification_times("labels")
