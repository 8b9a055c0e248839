"""`afd report` from an output to its page, for outputs of every kind."""

import html
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jpegs import encode, photo
from outputs import Made, rewrite, write_output

from jobs.labels_view import list_parts
from jobs.report import main, report
from jobs.report_settings import ReportSettings
from pipeline.output import OutputFolder

HOSTILE = "<img src=x onerror=alert(1)>.jpg"


def page_of(output: OutputFolder, **settings: Any) -> str:
    return report(ReportSettings(output=str(output.path), **settings)).path.read_text("utf-8")


def text_of(page: str) -> str:
    """What is read: no scripts, no tags, spaces as one."""
    body = page[page.index("<body>") : page.index("<script")]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def charts_of(page: str) -> set[str]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page)
    assert found
    return set(json.loads(found[1]))


def test_a_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_output(tmp_path / "out", Made(images=500, images_per_shard=100))
    before = write_output(tmp_path / "before", Made(images=400, images_per_shard=100, seed=4))
    page_file = tmp_path / "deep/page.html"
    arguments = [str(output.path), "--html", str(page_file), "--against", str(before.path)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert str(page_file) in said.out
    assert "500 images" in said.out
    assert "counting 500 rows in 5 parts" in said.err
    page = page_file.read_text("utf-8")
    text = text_of(page)
    for part in (
        "500 images",
        "labels to trust",
        "Shift of the distributions",
        "100 images added",
        "truncated: no end-of-image marker after",
        "None of the files can be read here",
        "Where the workers' time went",
        "IMAGENET1K_V2",
        "2.15.0",
    ):
        assert part in text, part
    assert len(charts_of(page)) == 12
    assert [path.name for path in page_file.parent.iterdir()] == ["page.html"]


def test_the_page_stands_in_the_output(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=20))
    made = report(ReportSettings(output=str(output.path)))
    assert made.path == output.path / "report.html"
    assert made.num_bytes == made.path.stat().st_size
    assert made.images == 20
    assert len(list_parts(output)) == 1


def test_pictures_and_hostile_names(tmp_path: Path) -> None:
    jpeg = encode(photo(90, 120))
    (tmp_path / HOSTILE).write_bytes(jpeg)
    output = write_output(tmp_path / "out", Made(images=12, bad_share=0))

    def name(row: dict[str, Any]) -> None:
        row["uri"], row["num_bytes"] = f"{tmp_path}/{HOSTILE}", len(jpeg)
        row["label_name"] = row["error"] = HOSTILE
        row["status"] = "damaged"

    rewrite(output, 0, name)
    page = page_of(output)
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=False) in page
    assert page.count('src="data:image/jpeg;base64,') == 3 * 12
    assert 'src="data:' not in page_of(output, thumbnails=0)
    assert 'src="data:' not in page_of(output, thumbnail_time_s=0)


def test_an_output_without_drift_says_so(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", Made(images=60, has_drift=False))
    page = page_of(output)
    assert "Drift was not measured: the run had no trained AFD-Module" in text_of(page)
    assert not {"drift", "flips"} & charts_of(page)
    assert "mean drift" not in text_of(page)
    before = write_output(tmp_path / "before", Made(images=60, has_drift=False))
    compared = text_of(page_of(output, against=str(before.path)))
    assert "Neither run measured drift" in compared


def test_a_checkpoint_without_a_flip_model(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=60))

    def forget(row: dict[str, Any]) -> None:
        row["flip_probability"] = None

    rewrite(output, 0, forget)
    page = page_of(output)
    assert "Flip probabilities are not known" in text_of(page)
    assert "drift" in charts_of(page)
    assert "flips" not in charts_of(page)


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=100, images_per_shard=25))
    parts = list_parts(output)
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    text = text_of(page_of(output))
    assert "The run is not finished: 50 of 100 planned images have no row yet" in text
    assert "part-00001.parquet cannot be read and is left out" in text


@pytest.mark.parametrize("kept", ["uri shard status error", "uri shard status confidence label"])
def test_rows_of_which_little_is_known(tmp_path: Path, kept: str) -> None:
    output = write_output(tmp_path, Made(images=15, bad_share=0))

    def forget(row: dict[str, Any]) -> None:
        row.update(dict.fromkeys(row.keys() - set(kept.split())))
        row["status"] = "ok" if "label" in kept else "unreadable"

    rewrite(output, 0, forget)
    page = page_of(output)
    text = text_of(page)
    assert "15 images" in text
    assert ("No image was labelled" in text) == ("label" not in kept)
    assert ("Drift was not measured" in text) == ("label" in kept)
    assert "are no JPEG header" not in text
    assert "subsampling" not in charts_of(page)
    assert "No image has an IJG-like quantization table" in text


def test_one_image(tmp_path: Path) -> None:
    assert "1 image " in text_of(page_of(write_output(tmp_path, Made(images=1, bad_share=0))))


def test_many_classes_are_listed_up_to_a_number(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=400))
    text = text_of(page_of(output, max_labels=3))
    assert "The 3 most frequent ones; the others have" in text


def test_other_settings_are_shown_as_changed(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", Made(images=30))
    before = write_output(tmp_path / "before", Made(images=30))
    rewrite(before, 0, lambda row: None, backbone="resnet18")
    text = text_of(page_of(output, against=str(before.path)))
    assert "The runs have different backbones" in text
    assert "backbone resnet18 resnet50" in text


def test_another_file_of_class_names_under_the_same_path_is_told(tmp_path: Path) -> None:
    """With which the same class has had two names."""
    outputs = [write_output(tmp_path / name, Made(images=30)) for name in ("before", "now")]
    for output, digest in zip(outputs, ("0a1b", "2c3d"), strict=True):
        rewrite(output, 0, lambda row: None, class_names_sha256=digest)
    text = text_of(page_of(outputs[1], against=str(outputs[0].path)))
    assert "class names sha256 0a1b 2c3d" in text
    assert "class names sha256 2c3d" in text[text.index("Model") :]


@pytest.mark.parametrize(
    ("before_names", "told"),
    [
        ({1: "one", 2: "two", 3: "three"}, None),
        ({1: None, 4: "four"}, None),
        ({1: "two", 2: "one", 3: "three"}, "2 class numbers, such as 1 ('two' before, 'one' now):"),
    ],
)
def test_classes_that_the_runs_name_differently_are_told(
    tmp_path: Path, before_names: dict[int, str | None], told: str | None
) -> None:
    def named(folder: str, names: Mapping[int, str | None]) -> str:
        output = write_output(tmp_path / folder, Made(images=30, bad_share=0))
        left = itertools.cycle(names.items())

        def label(row: dict[str, Any]) -> None:
            row["label"], row["label_name"] = next(left)

        rewrite(output, 0, label)
        return str(output.path)

    now = named("out", {1: "one", 2: "two", 3: "three"})
    before = named("before", before_names)
    text = text_of(report(ReportSettings(output=now, against=before)).path.read_text("utf-8"))
    assert ("different names for" in text) == (told is not None)
    assert (told or "") in text


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    output = write_output(tmp_path, Made(images=3000))
    with pytest.raises(ValueError, match=r"--memory-limit 1MB is too low: give more") as told:
        page_of(output, memory_limit="1MB")
    assert "Possible solutions" not in str(told.value)  # DuckDB's, of settings that are not ours


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_output(tmp_path / "out", Made(images=5))
    (tmp_path / "file").touch()
    cases = {
        (str(tmp_path),): "no labels in",
        (str(output.path), "--against", str(tmp_path / "gone")): "no labels in",
        (str(output.path), "--html", str(tmp_path / "file/page.html")): (
            "page.html': File exists; --html takes another file"
        ),
        (str(output.path), "--html", str(tmp_path)): "is a folder: give the name of a file",
    }
    for arguments, message in cases.items():
        assert main(arguments) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("afd report: ")
        assert message in last


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--sure", "1.5", "--sure 1.5 is not between 0 and 1"),
        ("--at-risk", "-1", "--at-risk -1.0 is not between 0 and 1"),
        ("--thumbnails", "-1", "--thumbnails -1 is negative: use 0 or more"),
        ("--max-labels", "0", "--max-labels 0 is not positive: use at least 1"),
        ("--memory-limit", "much", "--memory-limit 'much' is no size"),
    ],
)
def test_values_that_cannot_work(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["out", f"{flag}={value}"])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
