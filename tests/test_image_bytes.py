"""The bytes behind references of every kind; archives are gone through once, and stay open."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import make_tar
from servers import Bucket, Proxy, WebServer

from pipeline.inputs import image_bytes, manifest_entries
from pipeline.inputs.image_bytes import ArchiveStream, is_streamed, read_image
from pipeline.inputs.manifest_entries import clear_caches, entry_location
from pipeline.records import Container, ImageRef
from pipeline.sources import list_images
from pipeline.stores import storage
from pipeline.stores.errors import AccessError, MissingError, SourceError, TransientStoreError

NAMES = [f"{number}.jpg" for number in range(40)]
CONTENT = [name.encode() * 3 for name in NAMES]


@pytest.fixture(autouse=True)
def no_open_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "_CACHE", image_bytes._ReaderCache())


@pytest.fixture
def files() -> dict[str, bytes]:
    """Forty images in each kind of archive."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": CONTENT}), sink, row_group_size=15)
    tar = make_tar(NAMES)
    return {"x.tar": tar, "x.tar.gz": gzip.compress(tar), "x.parquet": sink.getvalue().to_pybytes()}


@pytest.fixture(params=["disk", "s3", "web"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, files: dict[str, bytes]
) -> Iterator[str]:
    """Where the archives are."""
    if request.param == "disk":
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        yield str(tmp_path)
    elif request.param == "s3":
        s3: Bucket = request.getfixturevalue("s3")
        s3.write(files)
        yield s3.url
    else:
        web = WebServer({f"/{name}": data for name, data in files.items()})
        with web.running():
            yield web.url


ARCHIVES = pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.parquet"])


@ARCHIVES
def test_images_of_archives_one_by_one_and_as_a_stream(folder: str, name: str) -> None:
    refs = list(list_images(f"{folder}/{name}"))
    assert [read_image(ref) for ref in refs] == CONTENT
    assert read_image(refs[7]) == CONTENT[7]
    stream = ArchiveStream(refs[10:30])
    assert [stream.read(ref) for ref in refs[10:30]] == CONTENT[10:30]
    stream.close()
    assert is_streamed(refs[0]) == (name != "x.tar" or "://" in folder)


@ARCHIVES
def test_the_shard_that_follows_goes_on_where_the_last_one_ended(
    folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = list(list_images(f"{folder}/{name}"))
    opened: list[str] = []

    def counted(location: str) -> object:
        opened.append(location)
        return storage.open_input(location)

    monkeypatch.setattr(image_bytes, "open_input", counted)
    for start in (0, 10, 30):  # another worker has the shard from 20 on
        stream = ArchiveStream(refs[start : start + 10])
        assert [stream.read(r) for r in refs[start : start + 10]] == CONTENT[start : start + 10]
        stream.close()
    assert len(opened) == 1
    stream = ArchiveStream(refs[20:30])  # it died: back again
    assert stream.read(refs[20]) == CONTENT[20]
    stream.close()
    assert len(opened) == 2


def test_no_more_than_two_archives_stay_open(tmp_path: Path) -> None:
    closed = []

    class Archive:
        position = 0

        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    readers = image_bytes._ReaderCache()
    a, b, c = (ImageRef(name, name, Container.TAR_GZ, 0) for name in "abc")
    for ref in (a, b, a, c):
        readers.put(ref, Archive(ref.uri))  # type: ignore[arg-type]
    assert closed == ["a", "b"]  # a was replaced, b was used longest ago
    assert readers.take(b) is None
    assert readers.take(a) is not None
    assert readers.take(a) is None


def test_an_archive_that_has_gone_costs_its_images(folder: str, files: dict[str, bytes]) -> None:
    for name, kind in (("g.tar", Container.TAR), ("g.tar.gz", Container.TAR_GZ)):
        ref = ImageRef(f"{folder}/{name}#1.jpg", f"{folder}/{name}", kind, 512, 3)
        for ask in (read_image, ArchiveStream([ref]).read):
            with pytest.raises((FileNotFoundError, MissingError)):
                ask(ref)


@pytest.mark.usefixtures("persistent")
def test_a_stream_goes_on_after_what_passes(
    s3: Bucket, proxy: Proxy, files: dict[str, bytes]
) -> None:
    s3.write(files)
    for name in files:
        refs = list(list_images(f"{s3.url}/{name}"))
        proxy.faults[name] = ["503:SlowDown", "reset-midway"]
        stream = ArchiveStream(refs)
        assert [stream.read(ref) for ref in refs] == CONTENT
        proxy.faults[name] = ["503:SlowDown"] * 3
        failing = ArchiveStream(refs)
        with pytest.raises(TransientStoreError, match="HTTP 503 SlowDown; tried 3 times"):
            failing.read(refs[0])
        assert failing.read(refs[0]) == CONTENT[0]


def test_a_null_byte_and_an_unknown_scheme() -> None:
    with pytest.raises(OSError, match="not a valid path: embedded null byte"):
        read_image(ImageRef("/a\0b.jpg"))
    with pytest.raises(SourceError, match="ftp:// is not supported"):  # of no image: of the plan
        read_image(ImageRef("ftp://h/a.jpg"))


def test_a_member_that_is_not_there_in_one_piece(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "x.tar").write_bytes(files["x.tar"])
    with pytest.raises(OSError, match="a sparse file, or a link without a target before it"):
        read_image(ImageRef("x.tar#1.jpg", str(tmp_path / "x.tar"), Container.TAR))


# What a plan leaves out


def test_credentials_are_looked_up_in_the_manifest_that_may_be_renewed(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    web = WebServer({"/a.jpg": b"jpeg", "/x.tar": files["x.tar"]})
    manifest = tmp_path / "list"
    with web.running():
        entries = [f"{web.url}/{name}?sig=f1rst" for name in ("a.jpg", "x.tar")]
        manifest.write_text("\n".join(entries))
        a, member, *_ = list_images(str(manifest))
        assert (a.uri, a.source) == (f"{web.url}/a.jpg", entry_location(str(manifest), 0))
        assert member.uri == f"{web.url}/x.tar#0.jpg"
        assert "f1rst" not in f"{a}{member}"
        assert is_streamed(member)
        assert (read_image(a), read_image(member)) == (b"jpeg", CONTENT[0])
        assert {request.path.partition("?")[2] for request in web.requests} == {"sig=f1rst"}
        web.requests.clear()
        manifest.write_text("\n".join(entries).replace("f1rst", "sec0nd"))  # its old ones expired
        assert (read_image(a), read_image(member)) == (b"jpeg", CONTENT[0])
        assert {request.path.partition("?")[2] for request in web.requests} == {"sig=sec0nd"}
        # As planned when less was known to be a signature.
        a, member = (
            replace(ref, uri=ref.uri.replace(name, f"{name}?hmac=f1rst"))
            for ref, name in ((a, "a.jpg"), (member, "x.tar"))
        )
        assert (read_image(a), read_image(member)) == (b"jpeg", CONTENT[0])
        manifest.write_text(f"{web.url}/other.jpg?sig=th1rd\n")
        for ref, error in ((a, OSError), (member, AccessError)):  # another entry, and none
            with pytest.raises(error, match="has changed since planning") as caught:
                read_image(ref)
            assert "th1rd" not in str(caught.value)


def test_signed_entries_may_be_relative_to_a_manifest_on_the_web() -> None:
    web = WebServer({"/d/a.jpg": b"jpeg", "/d/list": b"a.jpg?sig=f1rst\n"})
    with web.running():
        (ref,) = list_images(f"{web.url}/d/list")
        assert ref.uri == f"{web.url}/d/a.jpg"
        assert read_image(ref) == b"jpeg"
        web.files["/d/list"] = b"b.jpg?sig=sec0nd\n"
        clear_caches()
        with pytest.raises(OSError, match="has changed since planning") as caught:
            read_image(ref)
        assert "sec0nd" not in str(caught.value)


def test_a_manifest_on_a_server_without_byte_ranges_is_fetched_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{number}.jpg" for number in range(100)]
    web = WebServer({f"/{name}": name.encode() for name in names}, ranges=False)
    with web.running():
        # Longer than what is read of a file at first.
        entries = "".join(f"{web.url}/{name}?sig=f1rst{'x' * 2000}\n" for name in names)
        web.files["/list"] = entries.encode()
        refs = list(list_images(f"{web.url}/list"))
        web.requests.clear()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read_image, refs)) == [name.encode() for name in names]
        assert len([request for request in web.requests if "/list" in request.path]) == 1
        web.files["/list"] = entries.replace("f1rst", "sec0nd").encode()
        monkeypatch.setattr(manifest_entries, "_MAX_AGE_S", 0)
        assert [read_image(ref) for ref in refs[:3]] == [name.encode() for name in names[:3]]
        assert "sig=sec0nd" in web.requests[-1].path


def test_passwords_do_not_show_when_a_server_fails(tmp_path: Path) -> None:
    web = WebServer({})
    with web.running():
        (tmp_path / "list").write_text(web.url.replace("://", "://me:hunter2@") + "/a.jpg\n")
        (ref,) = list_images(str(tmp_path / "list"))
        with pytest.raises(MissingError, match=r"^HTTP 404 Not Found$"):
            read_image(ref)
        assert "hunter2" not in str(ref)
        assert "Authorization" in web.requests[0].headers


def test_many_threads_may_read_one_archive(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "x.tar.gz").write_bytes(files["x.tar.gz"])
    refs = list(list_images(str(tmp_path / "x.tar.gz")))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_image, refs)) == CONTENT
