"""Patterns and manifests, wherever they are: which files they stand for, and in which order."""

from pathlib import Path

import pytest
from corpora import COLLECTION, IN, listed, parquet, write
from servers import Bucket, WebServer

from pipeline.inputs.image_bytes import read_image
from pipeline.records import ImageRef
from pipeline.sources import list_images
from pipeline.stores.errors import SourceError

# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "z.jpg"]),
        ("in/[12].*", [f"in/{name}" for name in IN[:3]]),
        ("in/*.parquet", [f"in/{name}" for name in IN[4:7]]),
        ("**/[b-c]*", ["in/b.jpg"]),
        ("in/{1.tar,b.jpg}", ["in/1.tar#x.jpg", "in/1.tar#y.jpg", "in/b.jpg"]),
        ("in/{4..5}.parquet", [f"in/{name}" for name in IN[4:7]]),
        ("{z,a,gone}.jpg", ["z.jpg", "a.jpg", "gone.jpg"]),  # a row will say what is missing
        ("{in/c d,in/*d}/*.jpg", ["in/c d/é#?.jpg"] * 2),
    ],
)
def test_patterns(collection: str, pattern: str, expected: list[str]) -> None:
    assert listed(f"{collection}/{pattern}", collection) == expected


def test_absolute_paths_in_braces(collection: str) -> None:
    braces = f"{{{collection}/z.jpg,{collection}/in/1.tar}}"
    assert listed(braces, collection) == ["z.jpg", "in/1.tar#x.jpg", "in/1.tar#y.jpg"]


def test_a_pattern_of_folders(collection: str) -> None:
    braces = f"{collection}/{{in/c d/,in/c d/}}"
    assert listed(braces, collection) == ["in/c d/é#?.jpg"] * 2


def test_a_name_with_a_patterns_characters_is_that_name(tmp_path: Path) -> None:
    write(tmp_path, "[x]/{1..2}.jpg", "[x]/1.jpg", "*.jpg")
    assert listed(tmp_path / "[x]" / "{1..2}.jpg", tmp_path) == ["[x]/{1..2}.jpg"]
    assert listed(tmp_path / "[x]", tmp_path) == ["[x]/1.jpg", "[x]/{1..2}.jpg"]
    assert listed(tmp_path / "*.jpg", tmp_path) == ["*.jpg"]


# Manifests


def test_a_manifest_of_everything(collection: str, tmp_path: Path, s3: Bucket) -> None:
    web = WebServer({f"/{name}": content for name, content in COLLECTION.items()})
    with web.running():
        entries = {
            f"{collection}/a.jpg": [f"{collection}/a.jpg"],
            f"{collection}/in/1.tar": [f"{collection}/in/{name}" for name in IN[:2]],
            f"{collection}/in/{{2.tar.gz,b.jpg}}": [
                f"{collection}/in/2.tar.gz#z.jpg",
                f"{collection}/in/b.jpg",
            ],
            f"{collection}/in/c d/": [f"{collection}/in/c d/é#?.jpg"],
            f"{collection}/in/*.tgz": [f"{collection}/in/3.tgz#w.jpg"],
            f"{web.url}/in/4.parquet": [f"{web.url}/in/{name}" for name in IN[4:6]],
            f"{web.url}/in/1.tar?version=2": [
                f"{web.url}/in/1.tar?version=2#{name}" for name in ("x.jpg", "y.jpg")
            ],
            f"{web.url}/a.jpg": [f"{web.url}/a.jpg"],
            "gone.tar": [f"{tmp_path}/gone.tar"],  # what is missing has a row of its own
            f"{web.url}/gone.tar": [f"{web.url}/gone.tar"],
            f"{s3.url}/gone/": [f"{s3.url}/gone/"],
            f"{collection}/gone*": [f"{collection}/gone*"],
        }
        expected = [uri for found in entries.values() for uri in found]
        (tmp_path / "list.txt").write_text("\n\n".join(entries))
        (tmp_path / "list.csv").write_text(
            "path,label\n" + "".join(f'"{entry}",1\n' for entry in entries)
        )
        (tmp_path / "list.parquet").write_bytes(parquet(path=list(entries), label=list(entries)))
        for name in ("list.txt", "list.csv", "list.parquet"):
            refs = list(list_images(str(tmp_path / name)))
            assert [ref.uri for ref in refs] == expected
            for ref in refs:
                if "gone" in ref.uri:
                    with pytest.raises(OSError, match=r"No such file|Is a directory|404"):
                        read_image(ref)
                else:
                    assert read_image(ref)


def test_a_manifest_elsewhere_with_entries_relative_to_it(s3: Bucket) -> None:
    files = {"lists/a.txt": b"../b.jpg\nc d.jpg\nsub/\n", "b.jpg": b"b", "lists/c d.jpg": b"c"}
    files |= {"lists/sub/e.jpg": b"e", "lists/b.csv": b"path\n../b.jpg\n"}
    s3.write(files)
    expected = ["b.jpg", "lists/c d.jpg", "lists/sub/e.jpg"]
    assert listed(f"{s3.url}/lists/a.txt", s3.url) == expected
    assert listed(f"{s3.url}/lists/b.csv", s3.url) == expected[:1]
    web = WebServer({f"/{name}": content for name, content in files.items()})
    with web.running():
        assert listed(f"{web.url}/lists/b.csv?x=y/z", web.url) == expected[:1]


def test_names_in_a_manifest_that_look_like_patterns(tmp_path: Path) -> None:
    write(tmp_path, "{1..2}.jpg", "*.jpg", "a.jpg")
    (tmp_path / "list").write_text("{1..2}.jpg\n*.jpg\na?.jpg\n[a].jpg\n")
    expected = ["{1..2}.jpg", "*.jpg", "a?.jpg", "[a].jpg"]
    assert listed(tmp_path / "list", tmp_path) == expected


def test_a_null_byte_in_a_manifest_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(parquet(path=["a\0.jpg", "b.jpg"]))
    bad, good = list_images(str(tmp_path / "list"))
    assert good.uri == f"{tmp_path}/b.jpg"
    with pytest.raises(OSError, match="null byte"):
        read_image(bad)


def test_credentials_in_a_manifest_go_no_further(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("https://h/a.jpg?w=1&X-Amz-Signature=hunter2\n/b.jpg\n")
    signed, plain = list_images(str(tmp_path / "list"))
    assert signed == ImageRef("https://h/a.jpg?w=1", f"manifest:0:{tmp_path}/list")
    assert plain == ImageRef("/b.jpg")
    (tmp_path / "list").write_text("s3://key:hunter2@bucket/a.jpg\n")
    with pytest.raises(SourceError, match=r"'s3://bucket/a.jpg' was given with credentials"):
        list(list_images(str(tmp_path / "list")))
