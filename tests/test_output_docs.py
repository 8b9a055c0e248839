"""docs/output.md: its SQL runs as it stands and answers its questions."""

import csv
import io
import json
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import tar_of_files
from outputs import Made, rewrite, write_output
from outputs import uri as made_uri

from jobs.sql import SqlSettings, sql
from pipeline.records import Container, ImageRef
from pipeline.shards import part_path, write_plan
from pipeline.sources import list_images

PACKED = 50  # images that the plan says are members of an archive
ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs/output.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The question in bold before each block.
QUERIES = dict(re.findall(r"^\*\*(.+?)\*\*(?:(?!```).)*?```sql\n(.+?)```", DOCS, re.DOTALL | re.M))


def query_of(question: str) -> str:
    """The page's SQL under the question that contains these words."""
    (query,) = (text for asked, text in QUERIES.items() if question in asked)
    return query


def run_query(output: Path | str, query: str) -> list[dict[str, str]]:
    """Its rows, as CSV gives them."""
    to = io.StringIO()
    sql(SqlSettings(output=str(output), query=query, format="csv"), to)
    return list(csv.DictReader(io.StringIO(to.getvalue(), newline="")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels-out/ and records.parquet, as the reader of the page has it."""
    folder = tmp_path_factory.mktemp("docs")
    output = write_output(
        folder / "labels-out", Made(images=2000, images_per_shard=1000, bad_share=0.1)
    )

    def move(row: dict[str, Any]) -> None:
        row["uri"] = row["uri"].replace("/data/corpus/0000/", "/data/photos/b/")

    rewrite(output, 1, move)
    uris = pq.read_table(output.labels).column("uri").to_pylist()
    write_plan(
        output,
        (
            ImageRef(uri, "/data/x.tar", Container.TAR, offset=512 * k, num_bytes=500)
            if k < PACKED
            else ImageRef(uri)
            for k, uri in enumerate(uris)
        ),
        1000,
    )
    names = [f"b/image-{number:08d}.jpg" for number in (1000, 1001)] + ["unknown.jpg"]
    pq.write_table(pa.table({"file_name": names, "price": [1, 2, 3]}), folder / "records.parquet")
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "labels-out/labels").to_pylist()
    return found


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    return lambda question: run_query("labels-out", query_of(question))


def test_every_block_is_tried() -> None:
    questions = DOCS.split("## Status")[1]
    assert questions.count("```sql") == len(QUERIES) == 16


def test_which_labels_may_be_trusted(ask: Any, rows: list[dict[str, Any]], folder: Path) -> None:
    known = [row for row in rows if row["label"] is not None][::3]
    truth = {row["uri"]: row["label"] + (k % 4 == 0) for k, row in enumerate(known)}
    columns = {"uri": list(truth), "label": list(truth.values())}
    pq.write_table(pa.table(columns), folder / "truth.parquet")
    answer = ask("may I trust")
    assert len(answer) > 1
    for line in answer:
        kept = [
            row["label"] == truth[row["uri"]]
            for row in known
            if row["status"] == "ok" and row["flip_probability"] < float(line["bound"])
        ]
        assert int(line["kept"]) == len(kept)
        assert float(line["share_right"]) == pytest.approx(sum(kept) / len(kept))


def test_class_numbers_of_folders_that_are_named_by_wordnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("n01440764/b.JPEG", "n15075141/a.JPEG", "n02012849/c.JPEG"):
        (tmp_path / "imagenet-val" / name).parent.mkdir(parents=True)
        (tmp_path / "imagenet-val" / name).touch()
    (code,) = re.findall(r"```python\n(.+?)```", DOCS, re.DOTALL)
    exec(code, {})
    found = pq.read_table("truth.parquet").to_pylist()
    assert found == [
        {"uri": f"{tmp_path}/imagenet-val/n01440764/b.JPEG", "label": 0},
        {"uri": f"{tmp_path}/imagenet-val/n02012849/c.JPEG", "label": 134},  # the bird, not 517
        {"uri": f"{tmp_path}/imagenet-val/n15075141/a.JPEG", "label": 999},
    ]


def test_which_images_need_relabelling(ask: Any, rows: list[dict[str, Any]]) -> None:
    doubtful = [
        row["uri"]
        for row in rows
        if row["label"] is not None
        and (
            row["status"] == "damaged" or row["confidence"] < 0.5 or row["flip_probability"] >= 0.2
        )
    ]
    answer = ask("re-labelling")
    assert sorted(line["uri"] for line in answer) == sorted(doubtful)
    flips = [float(line["flip_probability"]) for line in answer]
    assert flips == sorted(flips, reverse=True)


def test_the_answer_is_a_manifest(tmp_path: Path) -> None:
    """Whatever the files are called, which CSV quotes and a text file would not."""
    names = ('a, "b".jpg', "n\nl.jpg", " s .jpg", "[x]*{1,2}?.jpg")
    output = write_output(tmp_path / "out", Made(images=len(names)))
    for name in names:
        (tmp_path / name).touch()
    left = [str(tmp_path / name) for name in names]
    rewrite(output, 0, lambda row: row.update(uri=left.pop()))
    with open(tmp_path / "again.csv", "w", encoding="utf-8") as to:
        sql(SqlSettings(output=str(output.path), query="FROM labels SELECT uri", format="csv"), to)
    found = {ref.uri for ref in list_images(str(tmp_path / "again.csv"))}
    assert found == {str(tmp_path / name) for name in names}


def test_how_the_classes_are_balanced(ask: Any, rows: list[dict[str, Any]]) -> None:
    answer = ask("balanced")
    trusted = [
        row
        for row in rows
        if row["status"] == "ok" and row["confidence"] >= 0.5 and row["flip_probability"] < 0.2
    ]
    assert sum(int(line["trustworthy"]) for line in answer) == len(trusted)
    assert sum(float(line["share"]) for line in answer) == pytest.approx(1, abs=0.05)
    first = answer[0]
    of_it = [row for row in trusted if row["label_name"] == first["name"]]
    assert int(first["trustworthy"]) == len(of_it)


def test_which_folder_has_drifted(ask: Any) -> None:
    answer = ask("source folder")
    assert {line["folder"] for line in answer} == {"/data/corpus/0000", "/data/photos/b"}
    drifts = [float(line["drift_deg"]) for line in answer]
    assert drifts == sorted(drifts, reverse=True)


def test_which_folder_an_image_is_in(tmp_path: Path) -> None:
    folders = {
        "/a/photo#1.jpg": "/a",
        "/a/X.TAR.GZ#b.jpg": "/a/X.TAR.GZ",
        "s3://bucket/x.tar#b/c#d.jpg": "s3://bucket/x.tar#b",
        "/a/x.parquet#cats/7": "/a/x.parquet#cats",
    }
    output = write_output(tmp_path / "labels-out", Made(images=len(folders), bad_share=0))
    uris = iter(folders)
    rewrite(output, 0, lambda row: row.update(uri=next(uris), label=1))
    found = run_query(output.path, query_of("Which source folder"))
    assert {line["folder"] for line in found} == set(folders.values())


def test_hostile_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of two lines has a folder; a share of no trustworthy labels is no number."""
    output = write_output(tmp_path / "labels-out", Made(images=20))
    change = {"uri": "/two\nlines/a.jpg", "status": "ok", "label": 1, "confidence": 0.1}
    rewrite(output, 0, lambda row: row.update(change))
    (balance,) = run_query(output.path, query_of("How are the classes"))
    (drifted,) = run_query(output.path, query_of("Which source folder"))
    assert (balance["trustworthy"], balance["share"]) == ("0", "")
    assert drifted["folder"] == "/two\nlines"


def test_which_files_are_damaged(ask: Any, rows: list[dict[str, Any]]) -> None:
    answer = ask("damaged or without a label")
    assert len(answer) == sum(row["status"] != "ok" for row in rows)
    assert all(line["error"] for line in answer)


def test_which_classes_compression_changes(ask: Any, rows: list[dict[str, Any]]) -> None:
    flips: dict[int, list[float]] = {}
    for row in rows:
        if row["label"] is not None and (row["jpeg_quality"] or 100) <= 25:
            flips.setdefault(row["label"], []).append(row["flip_probability"])
    expected = {label: mean(found) for label, found in flips.items() if len(found) >= 10}
    answer = ask("compression change most")
    assert {int(line["label"]): float(line["flip"]) for line in answer} == pytest.approx(expected)
    assert [float(line["flip"]) for line in answer] == sorted(expected.values(), reverse=True)


def test_the_share_below_a_quality(ask: Any, rows: list[dict[str, Any]]) -> None:
    known = [row["jpeg_quality"] for row in rows if row["jpeg_quality"] is not None]
    (line,) = ask("below quality 25")
    assert float(line["share_below"]) == pytest.approx(mean(quality < 25 for quality in known))
    assert int(line["unknown"]) == len(rows) - len(known)


def test_how_large_the_images_are(ask: Any, rows: list[dict[str, Any]]) -> None:
    pixels = [row["width"] * row["height"] for row in rows if row["width"] is not None]
    (line,) = ask("How large")
    assert int(line["images"]) == len(pixels)
    assert float(line["median_megapixels"]) == pytest.approx(median(pixels) / 1e6)
    assert float(line["largest"]) == pytest.approx(max(pixels) / 1e6)
    gigabytes = sum(row["num_bytes"] or 0 for row in rows) / 1e9
    assert float(line["gigabytes"]) == pytest.approx(gigabytes)


def test_copies(tmp_path: Path) -> None:
    output = write_output(tmp_path / "labels-out", Made(images=300, bad_share=0))
    before = pq.read_table(output.labels).to_pylist()[7]
    left = iter(range(300))

    def copy(row: dict[str, Any]) -> None:
        if next(left) in (50, 200):
            row.update({**before, "uri": row["uri"]})

    rewrite(output, 0, copy)
    to = io.StringIO()
    sql(SqlSettings(output=str(output.path), query=query_of("copies"), format="json"), to)
    ((found),) = json.loads(to.getvalue())
    assert found["copies"] == 3
    assert found["uris"] == [made_uri(number) for number in (7, 50, 200)]


def test_the_second_choice(ask: Any, rows: list[dict[str, Any]]) -> None:
    by_uri = {row["uri"]: row for row in rows}
    names = {row["label"]: row["label_name"] for row in rows}
    answer = ask("second choice")
    assert len(answer) == sum(row["label"] is not None for row in rows)
    for line in answer:
        assert line["second"] == names.get(by_uri[line["uri"]]["top_labels"][1], "")


def test_whether_two_runs_agree(ask: Any, rows: list[dict[str, Any]], folder: Path) -> None:
    earlier = write_output(
        folder / "earlier-out", Made(images=1000, images_per_shard=1000, bad_share=0.1)
    )
    rewrite(earlier, 0, lambda row: row.update(label=-1) if row["label"] is not None else None)
    answer = {(line["before"], line["now"]): line for line in ask("two runs agree")}
    ok = sum(row["status"] == "ok" for row in rows[:1000])
    assert (int(answer["ok", "ok"]["images"]), float(answer["ok", "ok"]["same_label"])) == (ok, 0)
    assert sum(int(line["images"]) for line in answer.values()) == len(rows)


def test_which_model_it_was(ask: Any) -> None:
    (line,) = ask("Which model")
    assert (line["backbone"], line["weights"], line["parts"]) == ("resnet50", "IMAGENET1K_V2", "2")


def test_joining_back(ask: Any, rows: list[dict[str, Any]]) -> None:
    by_uri = {row["uri"]: row for row in rows}
    found = {line["file_name"]: line for line in ask("my own records")}
    assert found["unknown.jpg"]["status"] == ""
    row = by_uri["/data/photos/b/image-00001001.jpg"]
    assert (found["b/image-00001001.jpg"]["price"], found["b/image-00001001.jpg"]["status"]) == (
        "2",
        row["status"],
    )


def test_joining_back_by_the_files_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = ["/a/b/x.jpg", "/a/flat.tar#y.jpg", "s3://bucket/w.tar#c/z.jpg"]
    output = write_output(tmp_path / "labels-out", Made(images=3))
    left = iter(uris)
    rewrite(output, 0, lambda row: row.update(uri=next(left)))
    names = ["x.jpg", "y.jpg", "z.jpg"]
    pq.write_table(pa.table({"file_name": names}), tmp_path / "records.parquet")
    monkeypatch.chdir(tmp_path)
    (condition,) = re.findall(r"`(\S+\(.+\) = records.file_name)`", DOCS)
    query = re.sub(" ON .+;", f" ON {condition} ORDER BY file_name;", query_of("my own records"))
    answer = run_query("labels-out", query.replace("records.*", "records.*, labels.uri"))
    assert [(line["file_name"], line["uri"]) for line in answer] == [*zip(names, uris, strict=True)]


def test_which_images_have_no_row_yet(tmp_path: Path) -> None:
    output = write_output(tmp_path / "labels-out", Made(images=30, images_per_shard=10))
    part_path(output, 1).unlink()
    found = [line["uri"] for line in run_query(output.path, query_of("no row yet"))]
    assert sorted(found) == [made_uri(number) for number in range(10, 20)]


def test_which_images_are_new_since_the_run(tmp_path: Path) -> None:
    def add(*names: str) -> None:
        for name in names:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar_of_files({"x.jpg": b"x"}) if path.suffix == ".tar" else b"x")

    add("a.jpg", "[b]/c*é.jpg", ".hidden/d.jpg", "old.tar")
    output = write_output(tmp_path / "labels-out", Made(images=1))
    write_plan(output, list_images(str(tmp_path / "photos")), 1000)
    new = ("new.jpg", "[b]/new é.jpg", ".hidden/new.jpg", "new/.jpg", "new.tar")
    add(*new)
    query = query_of("new since the run").replace("/data", str(tmp_path))
    found = [line["path"] for line in run_query(output.path, query)]
    assert sorted(found) == sorted(str(tmp_path / "photos" / name) for name in new)


def test_where_the_bytes_are(ask: Any, rows: list[dict[str, Any]]) -> None:
    answer = {line["uri"]: line for line in ask("archive's members")}
    packed = [row["uri"] for row in rows[:PACKED] if row["status"] == "ok"]
    assert list(answer) == packed
    last = answer[packed[-1]]
    assert (last["source"], last["offset"]) == (
        "/data/x.tar",
        str(512 * rows.index(by(last, rows))),
    )


def by(line: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return next(row for row in rows if row["uri"] == line["uri"])


def test_the_readmes_query_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for query in re.findall(r"```sql\n(.+?)```", README, re.DOTALL):
        to = io.StringIO()
        sql(SqlSettings(output="labels-out", query=query, format="csv"), to)
        assert len(to.getvalue().splitlines()) > 10
