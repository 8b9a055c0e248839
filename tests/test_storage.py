"""Files on disk and elsewhere through one door; what is on disk never passes through HTTP."""

import os
from pathlib import Path

import pytest
from servers import Bucket, WebServer

from pipeline.stores import storage
from pipeline.stores.errors import MissingError, SourceError
from pipeline.stores.storage import limit_read_ahead, list_objects, open_input, read, read_range

DATA = bytes(range(256))


def test_a_file_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "get", None)
    path = tmp_path / "é %41.bin"
    path.write_bytes(DATA)
    uri = "file://" + str(path).replace("%", "%25").replace(" ", "%20")
    for location in (str(path), uri):
        assert read(location) == DATA
        assert read_range(location, 10, 20) == DATA[10:30]
        assert read_range(location, 250, 20) == DATA[250:]
        with open_input(location) as file:
            limit_read_ahead(file, 10)
            file.seek(100)
            assert file.read(5) == DATA[100:105]
    for location in (str(tmp_path / "gone"), f"file://{tmp_path}/gone"):
        for ask in (read, open_input):
            with pytest.raises(FileNotFoundError):
                ask(location)
    with pytest.raises(IsADirectoryError):
        read(str(tmp_path))


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb") as film:
        os.truncate(film.fileno(), 1 << 40)
    for ask in (lambda: read(str(path)), lambda: read_range(str(path), 0, 1 << 40)):
        with pytest.raises(OSError, match=f"{1 << 40} bytes: at most {1 << 30} are read at once"):
            ask()


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jpg").symlink_to("pipe")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe", "link.jpg", "zero.jpg"):
        path = str(tmp_path / name)
        for ask in (read, open_input, lambda path: read_range(path, 0, 10)):
            with pytest.raises(OSError, match="not a regular file"):
                ask(path)


def test_a_file_elsewhere(s3: Bucket) -> None:
    s3.write({"a b/c.bin": DATA})
    web = WebServer({"/a b/c.bin": DATA})
    with web.running():
        for folder in (s3.url, web.url):
            location = f"{folder}/a b/c.bin"
            assert read(location) == DATA
            assert read_range(location, 10, 20) == DATA[10:30]
            assert read_range(location, 250, 20) == DATA[250:]
            assert read_range(location, 250, 0) == b""
            with open_input(location) as file:
                limit_read_ahead(file, 10)
                file.seek(-6, os.SEEK_END)
                assert file.read() == DATA[-6:]
            for ask in (read, open_input):
                with pytest.raises(MissingError, match="HTTP 404"):
                    ask(f"{folder}/gone")
    web = WebServer({"/c.bin": DATA}, ranges=False)
    with web.running():
        assert read_range(f"{web.url}/c.bin", 0, 20) == DATA[:20]


def test_a_password_in_a_url_is_sent() -> None:
    web = WebServer({"/a": DATA})
    with web.running():
        assert read(web.url.replace("://", "://me:p%40w@") + "/a") == DATA
        assert web.requests[0].headers["Authorization"] == "Basic bWU6cEB3"


def test_a_listing_may_begin_with_part_of_a_name(s3: Bucket) -> None:
    s3.write(dict.fromkeys(("x/ab", "x/ac", "x/b", "xa"), b""))
    assert [location for location, _ in list_objects(f"{s3.url}/x/", "a")] == [
        f"{s3.url}/x/ab",
        f"{s3.url}/x/ac",
    ]


def test_a_web_server_is_not_listed() -> None:
    with pytest.raises(SourceError, match=r"'https://h/x/' cannot be listed.*give a manifest"):
        list(list_objects("https://me:secret@h/x/"))
