"""The entries of a manifest of any kind, and each of them again by its place."""

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.manifest_entries import entry_location, is_entry, read_entry
from pipeline.inputs.manifests import list_manifest
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.locations import resolve_entry
from pipeline.stores.storage import open_input


def entries(path: Path) -> list[str]:
    """What is listed; each entry is found again by its place."""
    with path.open("rb") as file:
        found = list(list_manifest(file, str(path)))
    for number, entry in enumerate(found):
        place = entry_location(str(path), number)
        assert is_entry(place)
        assert read_entry(place) == resolve_entry(str(path.parent), entry)
    with pytest.raises(AccessError, match="has changed since planning"):
        read_entry(entry_location(str(path), len(found)))
    return found


ENTRIES = ["a.jpg", "", "with space .jpg", "é.jpg", "s3://b/k", "caf\udce9.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("start", "separator", "end"),
    [(b"", b"\n", b""), (b"", b"\r\n", b"\r\n"), (b"\xef\xbb\xbf", b"\n", b"\n")],
    ids=["unix", "windows", "byte order mark"],
)
def test_text(tmp_path: Path, start: bytes, separator: bytes, end: bytes) -> None:
    lines = [entry.encode("utf-8", "surrogateescape") for entry in ENTRIES]
    (tmp_path / "list").write_bytes(start + separator.join(lines) + end)
    assert entries(tmp_path / "list") == ENTRIES


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", "path\na.jpg\nb.jpg\n", ["a.jpg", "b.jpg"]),
        ("x.CSV", "\ufeffcaption;url\nx;a.jpg\ny;b.jpg", ["a.jpg", "b.jpg"]),
        ("x.tsv", "path\tlabel\na, b.jpg\t1\n\t2\n\nc.jpg\t3\r\n", ["a, b.jpg", "", "", "c.jpg"]),
        ("x.csv", 'label,"path"\n1,"a,b.jpg"\n2,"two\nlines.jpg"\n3,c.jpg\n4\n',
         ["a,b.jpg", "two\nlines.jpg", "c.jpg", ""]),
        ("x.csv", "a , uri ,b\n1,é.jpg,2\n", ["é.jpg"]),
        ("x.csv", "only\na.jpg\n", ["a.jpg"]),
        ("x.csv", 'path\na\tb.jpg\nc, d;e.jpg\n\n"f\tg,\n""h"".jpg"\n\ti.jpg\n',
         ["a\tb.jpg", "c, d;e.jpg", "", 'f\tg,\n"h".jpg', "\ti.jpg"]),
        ("x.tsv", "path\na, b.jpg\r\nc.jpg\0d\r\n", ["a, b.jpg", "c.jpg\0d"]),
        ("x.csv", "path\n", []),
    ],
)  # fmt: skip
def test_tables(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert entries(tmp_path / name) == expected


@pytest.mark.parametrize(
    "columns",
    [
        {"path": ["a.jpg", None, "", "b.jpg"], "caption": ["x", "y", "z", "w"]},
        {"caption": ["x", "y"], "uri": ["a.jpg", "b.jpg"], "file": ["no", "no"]},
        {"whatever": ["a.jpg", "b.jpg"], "label": [1, 2]},
        {"label": [1, 2], "image.path": ["a.jpg", "b.jpg"]},
        {"path": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(), "caption": ["x", "y"]},
        {"path": pa.array(["a.jpg", "b.jpg"], pa.large_string()), "caption": ["x", "y"]},
        {"path": pa.array(["a.jpg", "b.jpg"], pa.string_view()), "label": [1, 2]},
        {"path": [1, 2], "url": ["a.jpg", "b.jpg"]},
        {"path.x": ["x", "y"], "path": ["a.jpg", "b.jpg"]},  # pyarrow takes it for its field
    ],
    ids=lambda columns: "-".join(columns),
)
@pytest.mark.parametrize("row_group_size", [1, 1000])
def test_parquet(tmp_path: Path, columns: dict[str, object], row_group_size: int) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list", row_group_size=row_group_size)
    assert [entry for entry in entries(tmp_path / "list") if entry] == ["a.jpg", "b.jpg"]


def parquet(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def csv(columns: dict[str, object]) -> bytes:
    return ",".join(columns).encode() + b"\n"


@pytest.mark.parametrize("columns", [{"left": ["a"], "right": ["b"]}, {"a": [1], "b": [2]}, {}])
@pytest.mark.parametrize("write", [parquet, csv])
def test_no_clear_column_is_refused(
    columns: dict[str, object], write: Callable[[dict[str, object]], bytes]
) -> None:
    found = ".*, ".join(columns) or "no columns"
    with pytest.raises(SourceError, match=f"name one of its string columns 'path'.*{found}"):
        list(list_manifest(io.BytesIO(write(columns)), "/x.csv"))


PICTURE = {"bytes": b"1", "path": "1.jpg"}


@pytest.mark.parametrize(
    "images",
    [
        {"left": [b"1"], "right": [b"2"]},
        {"images": [[PICTURE]]},
        {"sample": [{"image": PICTURE}]},
        {"image": pa.array([[1]], pa.list_(pa.uint8()))},
        {"image": pa.array([b"1"], pa.binary(1)), "other": pa.array([b"1"], pa.binary(1))},
    ],
)
def test_a_caption_is_no_path(images: dict[str, Any]) -> None:
    """Where the images are not found, each caption would be a row for a file that is missing."""
    table = parquet({**images, "caption": ["a dog"]})
    with pytest.raises(SourceError, match=r"name their column 'image', .*caption \(string\)\)"):
        list(list_manifest(io.BytesIO(table), "/x.parquet"))
    table = parquet({**images, "path": ["a.jpg"]})
    assert list(list_manifest(io.BytesIO(table), "/x.parquet")) == ["a.jpg"]


@pytest.mark.parametrize(
    "other", [pa.array([1], pa.uint8()), [[0.5]], [{"width": 1, "binary_mask": 2}]]
)
def test_a_lone_column_of_text_has_paths(other: Any) -> None:
    table = parquet({"photo": ["a.jpg"], "other": other})
    assert list(list_manifest(io.BytesIO(table), "/x.parquet")) == ["a.jpg"]


@pytest.mark.parametrize(
    "first", ["a.jpg", "B.PNG", "sub/a", "x.tar.gz", "y.parquet", "s3://b/k", "no extension"]
)
def test_a_table_without_a_header_is_refused(tmp_path: Path, first: str) -> None:
    """Its first image would be lost as the name of the column."""
    (tmp_path / "no extension").touch()
    (tmp_path / "x.csv").write_text(f"{first}\nb.jpg\n")
    with pytest.raises(SourceError, match=f"first line '{first}' looks like a path, but must name"):
        entries(tmp_path / "x.csv")
    for header in ("path", "photo"):
        (tmp_path / f"{header}.csv").write_text(f"{header}\n{first}\nb.jpg\n")
        assert entries(tmp_path / f"{header}.csv") == [first, "b.jpg"]


@pytest.mark.parametrize("rest", ["", '"c.jpg",1\n', "d.jpg,2\n" * 50_000])
def test_a_quote_that_is_not_closed_is_refused(tmp_path: Path, rest: str) -> None:
    """It would swallow the entries up to the next quote."""
    (tmp_path / "x.csv").write_text('path,label\na.jpg,0\n"b.jpg,0\nc.jpg,1\n' + rest)
    with pytest.raises(SourceError, match=r"cannot read the manifest .*x.csv' after 1 entries: "):
        entries(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["list", "list.parquet"])
def test_threads_that_look_up_entries_share_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    names = [f"{number}.jpg" for number in range(20_000)]
    place, count = tmp_path / name, 16
    place.write_bytes(parquet({"path": names}) if "." in name else "\n".join(names).encode())
    opened: list[str] = []
    start = threading.Barrier(count)

    def noting(location: str) -> BinaryIO:
        opened.append(location)
        return open_input(location)

    def look_up(number: int) -> str:
        start.wait()
        return read_entry(entry_location(str(place), number))

    monkeypatch.setattr("pipeline.inputs.manifest_entries.open_input", noting)
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(look_up, range(count))) == [str(tmp_path / n) for n in names[:count]]
    assert len(opened) <= 3  # what kind it is; of Parquet, its row groups and the first of them


def test_damage_is_refused() -> None:
    whole = parquet({"path": [f"{i}.jpg" for i in range(5000)]})
    pages = len(whole) // 2
    oversized = b"path\n" + b"x" * 200_000
    for name, damaged in [
        ("x", whole[:-10]),
        ("x", whole[:4] + bytes(pages) + whole[4 + pages :]),
        ("x.csv", oversized),
    ]:
        with pytest.raises(SourceError, match=f"cannot read the manifest '{name}'"):
            list(list_manifest(io.BytesIO(damaged), name))
