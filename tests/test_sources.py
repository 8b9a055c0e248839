"""What a location is told to be, wherever it is; that all of it is listed, in order, or refused."""

import gzip
import lzma
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from corpora import COLLECTION, IN, JPEG, listed, make_tar, parquet, write
from servers import Answer, Bucket, Proxy, Request, WebServer

from pipeline.inputs.image_bytes import read_image
from pipeline.records import ImageRef
from pipeline.sources import list_images
from pipeline.stores.errors import SourceError

NOT_UTF8 = os.fsdecode(b"caf\xe9 \xff.jpg")


# Folders and files


def test_a_folder_with_archives_in_it(collection: str) -> None:
    expected = ["a.jpg", *(f"in/{name}" for name in IN), "z.jpg"]
    assert listed(collection, collection) == expected
    assert listed(f"{collection}/", collection) == expected
    assert listed(f"{collection}/in/", f"{collection}/in") == IN


@pytest.mark.parametrize("name", ["1.tar", "2.tar.gz", "3.tgz", "4.parquet"])
def test_an_archive_is_a_collection(collection: str, name: str) -> None:
    expected = [image for image in IN if image.startswith(f"{name}#")]
    assert listed(f"{collection}/in/{name}", f"{collection}/in") == expected


def test_an_archive_is_one_whatever_the_case_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "A.TAR").write_bytes(make_tar(["x.jpg"]))
    (tmp_path / "B.Tar.Gz").write_bytes(gzip.compress(make_tar(["y.jpg"])))
    (tmp_path / "C.PARQUET").write_bytes(parquet(image=[JPEG]))
    assert listed(tmp_path, tmp_path) == ["A.TAR#x.jpg", "B.Tar.Gz#y.jpg", "C.PARQUET#0"]


def test_relative_locations_give_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    for location in ("photos", "./photos/", "photos/../photos", "photos/*.jpg", "photos/{a,}.jpg"):
        assert listed(location, tmp_path)[0] == "photos/a.jpg"


def test_a_key_column_that_is_not_utf8_is_refused_by_the_files_name(tmp_path: Path) -> None:
    keys = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"caf\xe9"]).buffers())
    (tmp_path / "x.parquet").write_bytes(parquet(image=[b"1", b"2"], url=keys))
    for location in (tmp_path, tmp_path / "x.parquet"):
        message = (
            r"cannot list '.*x\.parquet': the column 'url' holds b'caf\\xe9', which is not UTF-8:"
            " rewrite the file without that column, or with valid text in it, or, if it holds"
            " images, as bytes"
        )
        with pytest.raises(SourceError, match=message):
            list(list_images(str(location)))


@pytest.mark.timeout(20)
def test_what_is_no_file_is_a_row_that_says_so(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "link.jpg").symlink_to("pipe.tar")
    (tmp_path / "list").write_text("a.jpg\npipe.tar\nlink.jpg\n")
    assert listed(tmp_path, tmp_path) == ["a.jpg", "link.jpg", "list"]
    for location in (tmp_path / "list", f"{tmp_path}/*.*"):
        refs = {Path(ref.uri).name: ref for ref in list_images(str(location))}
        assert refs.keys() == {"a.jpg", "pipe.tar", "link.jpg"}
        for name in ("pipe.tar", "link.jpg"):
            with pytest.raises(OSError, match="not a regular file"):
                read_image(refs[name])


def test_one_image_is_a_collection_of_one(tmp_path: Path, s3: Bucket) -> None:
    for name, content in {
        "a": JPEG,
        "b": b"\x89PNG\r\n\x1a\n\0\0\0",
        "c.jpg": b"<html>",
        "d.JPEG": b"",
        "e f%.jpg": JPEG,
    }.items():
        (tmp_path / name).write_bytes(content)
        s3.write({name: content})
        assert listed(tmp_path / name, tmp_path) == [name]
        assert listed(f"file://{tmp_path}/{name}".replace("%", "%25"), tmp_path) == [name]
        assert listed(f"{s3.url}/{name}", s3.url) == [name]


def test_names_that_are_not_utf8_go_round_as_uris(tmp_path: Path) -> None:
    write(tmp_path, NOT_UTF8, "100% é.jpg")
    manifest = tmp_path / "list.txt"
    manifest.write_bytes(os.fsencode(NOT_UTF8) + b"\n")
    plain, escaped = list_images(str(tmp_path / "*.jpg"))
    assert plain.uri == str(tmp_path / "100% é.jpg")
    assert escaped.uri == f"file://{tmp_path}/caf%E9%20%FF.jpg"
    assert read_image(escaped) == b"caf\xe9 \xff.jpg"
    assert list(list_images(str(manifest))) == [escaped]
    manifest.write_text(escaped.uri)  # and a manifest may hold such a URI
    assert list(list_images(str(manifest))) == [escaped]


def test_an_archive_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    (folder / "x.tar").write_bytes(make_tar(["1.jpg"]))
    (ref,) = list_images(str(tmp_path))
    assert ref.uri == f"file://{tmp_path}/caf%E9%20%FF.jpg/x.tar#1.jpg"
    assert read_image(ref) == b"1.jpg" * 3


# Elsewhere


def test_sizes_come_with_a_buckets_listing(s3: Bucket) -> None:
    s3.write({"a.jpg": b"1234"})
    assert list(list_images(s3.url)) == [ImageRef(f"{s3.url}/a.jpg", num_bytes=4)]


@pytest.mark.usefixtures("s3")
def test_a_pattern_over_many_objects_asks_for_those_that_begin_as_it_does() -> None:
    refs = list(list_images("s3://many/031*[02468].jpg"))
    assert [ref.uri for ref in refs] == [f"s3://many/{n:05d}.jpg" for n in range(3100, 3200, 2)]
    assert read_image(refs[1]) == b"3102"


def test_the_web(tmp_path: Path) -> None:
    web = WebServer({f"/{name}": content for name, content in COLLECTION.items()})
    web.redirects["/latest.tar"] = f"{web.url}/in/1.tar"
    with web.running():
        assert listed(f"{web.url}/in/4.parquet", f"{web.url}/in") == IN[4:6]
        assert listed(f"{web.url}/in/{{1.tar,2.tar.gz}}", f"{web.url}/in") == IN[:3]
        assert listed(f"{web.url}/latest.tar", web.url) == ["latest.tar#x.jpg", "latest.tar#y.jpg"]
        assert listed(f"{web.url}/a.jpg?w=1", web.url) == ["a.jpg?w=1"]
        with pytest.raises(SourceError, match=r"no such file: 'http.*/gone'"):
            listed(f"{web.url}/gone", "")
        with pytest.raises(SourceError, match="since web servers have no listing"):
            listed(f"{web.url}/in/", "")


def test_archives_elsewhere_are_listed_side_by_side_and_in_order(tmp_path: Path) -> None:
    names = [f"{number:02d}.tar" for number in range(12)]
    web = WebServer({f"/{name}": make_tar(["x.jpg", "y.jpg"]) for name in names})
    together = threading.Barrier(4, timeout=5)
    original = web.answer

    def answer(request: Request) -> Answer:
        together.wait()  # four at a time, or not at all
        return original(request)

    web.answer = answer  # type: ignore[method-assign]
    with web.running():
        found = listed(f"{web.url}/{{00..11}}.tar", web.url)
    assert found == [f"{name}#{member}" for name in names for member in ("x.jpg", "y.jpg")]


@pytest.mark.usefixtures("persistent")
def test_listing_goes_on_through_what_passes_and_refuses_what_does_not(
    s3: Bucket, proxy: Proxy
) -> None:
    s3.write(
        {f"in/{name.partition('/')[2]}": data for name, data in COLLECTION.items() if "/" in name}
    )
    passing = {"list-type": ["503:SlowDown", "cut"], "4.parquet": ["reset"], "tar": ["cut"] * 2}
    proxy.faults = passing
    assert listed(f"{s3.url}/in", f"{s3.url}/in") == IN
    for pattern, what in {
        "list-type": "cannot list 's3://.*/in/'",
        "2.tar.gz": "cannot read 's3://.*/in/2.tar.gz'",
        "/in$": "cannot read 's3://.*/in'",
    }.items():
        proxy.faults = {pattern: ["503:SlowDown"] * 3}
        with pytest.raises(SourceError, match=f"{what}: HTTP 503 SlowDown; tried 3 times"):
            listed(f"{s3.url}/in", "")
    proxy.faults = {"list-type": ["403:ExpiredToken"]}
    with pytest.raises(SourceError, match="HTTP 403 ExpiredToken: the credentials"):
        listed(f"{s3.url}/in", "")


# Refusals


def test_a_damaged_archive_is_refused_and_never_listed_short(tmp_path: Path) -> None:
    tar, packed, table = (COLLECTION[f"in/{name}"] for name in ("1.tar", "2.tar.gz", "4.parquet"))
    for name, data, message in [
        ("x.tar", tar[: 512 + 100], "cannot list the tar '/.*x.tar': "),
        ("x.tar", b"<html>", "cannot list the tar '/.*x.tar': "),
        ("x.tar.gz", packed[:-9], "cannot list the tar '/.*x.tar.gz': "),
        ("x.parquet", table[:-9], "cannot read '/.*x.parquet': "),
    ]:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
        for location in (tmp_path / "in", tmp_path / "in" / name):
            with pytest.raises(SourceError, match=message) as caught:
                list(list_images(str(location)))
            assert "\n" not in str(caught.value)
        (tmp_path / "in" / name).unlink()


@pytest.mark.parametrize("entry", ["PARENTS/a.jpg", "PARE"])
def test_a_manifest_may_begin_as_an_encrypted_file_does(tmp_path: Path, entry: str) -> None:
    (tmp_path / "list.txt").write_text(f"{entry}\nb.jpg\n")
    assert [ref.uri for ref in list_images(str(tmp_path / "list.txt"))] == [
        str(tmp_path / entry),
        str(tmp_path / "b.jpg"),
    ]


def test_patterns_that_begin_as_json_does_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('{a,b}.jpg\n"c.jpg"\n')
    found = [Path(ref.uri).name for ref in list_images(str(tmp_path / "list.txt"))]
    assert found == ["a.jpg", "b.jpg", '"c.jpg"']
    (tmp_path / "[a]1.jpg").touch()
    (tmp_path / "list.txt").write_text("[[]a]*.jpg\n")
    assert [Path(ref.uri).name for ref in list_images(str(tmp_path / "list.txt"))] == ["[a]1.jpg"]


def test_what_cannot_be_listed_is_refused_in_one_line(tmp_path: Path, s3: Bucket) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"text"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jpg", b"")
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(b"text"))
    (tmp_path / "notepad.csv").write_text("path\na.jpg\n", encoding="utf-16")
    (tmp_path / "found.txt").write_bytes("é.jpg\0b.jpg\0".encode() * 60)  # cut within a letter
    (tmp_path / "exported.txt").write_text("a.jpg\nb.jpg\n", encoding="utf-16-le")
    (tmp_path / "latin1.txt").write_bytes(b"/a\xfc.jpg\nhttps://h/\xfc.jpg\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg", "label": 1}\n')
    (tmp_path / "indented.json").write_text('[\n  {\n    "path": "a.jpg"\n  }\n]')
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "remote.txt").write_text("ftp://host/a.jpg\n")
    (tmp_path / "two.parquet").write_bytes(parquet(left=[b"1"], right=[b"2"]))
    (tmp_path / "locked.parquet").write_bytes(b"PARE" + bytes(99) + b"PARE")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        str(tmp_path / "gone"): "no such file or folder: '/.*gone'",
        str(tmp_path / "empty"): "no files in .*: give a folder, glob, manifest or archive",
        str(tmp_path / "*.gif"): "no files in",
        str(tmp_path / "blank.txt"): "no files in",
        str(tmp_path / "pipe"): "no such file or folder",
        str(tmp_path / "x.gz"): r"is compressed \(gzip\): unpack it first",
        str(tmp_path / "x.zip"): r"is compressed \(zip\): unpack it first",
        str(tmp_path / "x.tar.xz"): r"is compressed \(xz\): unpack it first",
        str(tmp_path / "notepad.csv"): "is text in UTF-16: save it as UTF-8",
        str(
            tmp_path / "found.txt"
        ): "is text with null bytes: save it as UTF-8, with one entry per",
        str(tmp_path / "exported.txt"): "is text with null bytes: save it as UTF-8, with one entry",
        str(
            tmp_path / "latin1.txt"
        ): r"entry 2 of the manifest '.*' is not UTF-8: b'https://h/\\xfc",
        str(
            tmp_path / "metadata.jsonl"
        ): "metadata.jsonl' is JSON: give its paths as text with one",
        str(tmp_path / "indented.json"): "is JSON: give its paths as text",
        str(tmp_path / "remote.txt"): "'ftp://host/a.jpg': ftp:// is not supported; give a path",
        str(tmp_path / "two.parquet"): "has no column of paths.*left .*, right ",
        str(tmp_path / "locked.parquet"): "cannot read .*locked.parquet': it is encrypted: give it",
        "ftp://host/a": "ftp:// is not supported; give a path, or one of s3://",
        f"{s3.url}/gone": "no files in",
        f"{s3.url}/gone/*.jpg": "no files in",
        "s3://no-such-bucket-anywhere": "cannot list .*HTTP 404 NoSuchBucket",
        "s3://": "names no bucket",
        "hf://datasets/x": "names no repository",
        "https://me:hunter2@h/a.tar": "with credentials, .*write the whole URI into a text file",
        "s3://key:hunter2@bucket/a": "with credentials, .*set the credentials in the environment",
    }
    for location, message in cases.items():
        with pytest.raises(SourceError, match=message) as caught:
            list(list_images(location))
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_listing_needs_no_decoder() -> None:
    """The driver lists; it must start without DALI and PyTorch."""
    code = "import sys, pipeline.sources, pipeline.shards; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
