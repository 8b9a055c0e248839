"""Repositories of the Hugging Face Hub: their names, their listings page by page, their files."""

import json
from collections.abc import Iterator

import pytest
from servers import Answer, Request, WebServer

from pipeline.stores.errors import AccessError, MissingError, SourceError, StoreError
from pipeline.stores.hf_store import HfPlace, parse_hf
from pipeline.stores.storage import list_objects, read, read_range


@pytest.mark.parametrize(
    ("location", "root", "place"),
    [
        ("hf://datasets/o/n/a/b.jpg", "hf://datasets/o/n", ("datasets", "o/n", "main", "a/b.jpg")),
        ("hf://o/n", "hf://o/n", ("models", "o/n", "main", "")),
        ("hf://spaces/o/n/", "hf://spaces/o/n", ("spaces", "o/n", "main", "")),
        ("hf://datasets/o/n@v1/x", "hf://datasets/o/n@v1", ("datasets", "o/n", "v1", "x")),
        (
            "hf://datasets/o/n@refs/convert/parquet/d/0.parquet",
            "hf://datasets/o/n@refs/convert/parquet",
            ("datasets", "o/n", "refs/convert/parquet", "d/0.parquet"),
        ),
        (
            "hf://datasets/o/n@a%2Fb/x@1",
            "hf://datasets/o/n@a%2Fb",
            ("datasets", "o/n", "a/b", "x@1"),
        ),
    ],
)
def test_names(location: str, root: str, place: tuple[str, str, str, str]) -> None:
    assert parse_hf(location) == HfPlace(root, *place)


def test_what_names_no_repository_is_refused() -> None:
    for location in ("hf://datasets/n", "hf://gpt2", "hf://", "hf://datasets/o/"):
        with pytest.raises(SourceError, match="names no repository: write hf://datasets/owner"):
            parse_hf(location)


FILES = {"data/a b.jpg": b"1", "data/é#?.jpg": b"22", "README.md": b"333", "data-x/0.jpg": b"4"}


class Hub(WebServer):
    """The two requests of the Hub's interface that are used, in pages of two files."""

    def answer(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        listing = "/api/datasets/o/n/tree/v1/"
        if request.headers.get("Authorization") != "Bearer t0ken":
            return Answer(401, {}, b"{}")
        if not path.startswith(listing):
            return super().answer(request)
        folder = path.removeprefix(listing)
        items = [{"type": "directory", "path": "data"}] + [
            {"type": "file", "path": name, "size": len(content)}
            for name, content in FILES.items()
            if name.startswith(folder)
        ]
        first = int(query.partition("cursor=")[2] or 0)
        following = f"{self.url}{path}?recursive=true&cursor={first + 2}"
        headers = {"Link": f'<{following}>; rel="next"'} if first + 2 < len(items) else {}
        return Answer(200, headers, json.dumps(items[first : first + 2]).encode())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub({f"/datasets/o/n/resolve/v1/{name}": content for name, content in FILES.items()})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "t0ken")
    with server.running():
        yield server


def test_a_repository_is_listed_in_byte_order_and_read(hub: Hub) -> None:
    found = list(list_objects("hf://datasets/o/n@v1/"))
    assert found == [
        (f"hf://datasets/o/n@v1/{name}", len(FILES[name])) for name in sorted(FILES, key=str.encode)
    ]
    for location, _ in found:
        assert read(location) == FILES[location.removeprefix("hf://datasets/o/n@v1/")]
    assert read_range(found[-1][0], 1, 1) == b"2"
    below = [name for name, _ in list_objects("hf://datasets/o/n@v1/data/")]
    assert below == [f"hf://datasets/o/n@v1/data/{name}" for name in ("a b.jpg", "é#?.jpg")]


def test_who_is_not_let_in_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "another")
    for ask in (read, lambda location: list(list_objects(location))):
        with pytest.raises(AccessError, match="HTTP 401 Unauthorized: the credentials"):
            ask("hf://datasets/o/n@v1/data/")


def test_what_is_not_there(hub: Hub) -> None:
    with pytest.raises(MissingError, match="HTTP 404"):
        read("hf://datasets/o/n@v1/gone.jpg")
    with pytest.raises(MissingError, match="HTTP 404"):
        list(list_objects("hf://datasets/o/n@v2/"))
    hub.files["/api/datasets/o/n/tree/main/"] = b'{"error": "busy"}'
    with pytest.raises(StoreError, match="the Hub's listing has an unknown form"):
        list(list_objects("hf://datasets/o/n/"))
