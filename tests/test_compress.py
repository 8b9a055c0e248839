import errno
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compressions import files, manifest, run
from disks import room_for
from jpegs import encode, photo, save

from jobs.compress import MANIFEST, compress_collection, main
from jobs.compress_settings import CompressSettings
from pipeline.degrade import FULL_IMAGE, IMAGENET_C, compress, decompress, degrade
from pipeline.inputs.local_files import list_folder
from pipeline.jpeg_scan import scan_jpeg
from pipeline.pairs.recompress import (
    compressed_file,
    drawn_grid_shift,
    drawn_qualities,
    model_window,
    open_rgb,
)
from pipeline.pixels.geometry import Geometry
from pipeline.sources import list_images

GEOMETRY = Geometry(256, 224, "bilinear", (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    files = {
        "cat/a.jpg": encode(photo(90, 120)),
        "cat/b.JPEG": encode(photo(100, 80, 1), quality=95),
        "dog/a.jpg": encode(photo(64, 64, 2), mode="L"),
        "dog/a.png": save(photo(50, 70, 3), "PNG"),
        "dog/cut.jpg": encode(photo(90, 120))[:1500],
        "dog/page.jpg": b"<html>",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_sets_are_the_originals_compressed_under_their_own_names(
    collection: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run(collection, output, "--quality", "7", "25") == 0
    found = files(output)
    names = ["cat/a.jpg", "cat/b.JPEG", "dog/a.jpg", "dog/a.png.jpg"]
    assert sorted(found) == sorted(f"q{q}/{name}" for q in ("07", "25") for name in names)
    original = open_rgb((collection / "cat/a.jpg").read_bytes())
    assert found["q07/cat/a.jpg"] == compress(original, 7)
    assert scan_jpeg(found["q25/cat/b.JPEG"]).quality == 25
    assert not list((output / ".staging").iterdir())


def test_setting_the_clock_back_does_not_shorten_a_run(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(2_000_000_000.0, -3600)
    monkeypatch.setattr("time.time", lambda: next(clock))
    assert run(collection, tmp_path / "out", "--quality", "7") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["wall_s"] > 0


def test_a_full_disk_is_not_taken_for_the_images_names(
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Path, **__: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.pairs.compressed_sets.atomic_write", full)
    assert run(collection, tmp_path / "out", "--quality", "10") == 1
    assert "No space left on device" in capsys.readouterr().err


def test_bad_images_are_named_and_cost_nothing_else(collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(collection, output, "--quality", "10") == 0
    bad = {Path(str(r["uri"])).name: r for r in manifest(output) if r["path"] is None}
    assert {name: row["status"] for name, row in bad.items()} == {
        "cut.jpg": "damaged",
        "page.jpg": "rejected",
    }
    assert "the content is html" in str(bad["page.jpg"]["error"])
    # The manifest is itself a collection: of the good files.
    listed = [ref.uri for ref in list_images(str(output / MANIFEST))]
    assert sorted(listed) == sorted(str(path) for path in (output / "q10").rglob("*.*"))


def test_the_same_command_writes_only_what_is_missing(collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(collection, output, "--quality", "10", "15")
    before, rows = files(output), manifest(output)
    kept, lost = output / "q10/cat/a.jpg", output / "q15/dog/a.jpg"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (output / ".staging/leftover").write_bytes(b"half a file")
    assert run(collection, output, "--quality", "10", "15") == 0
    assert files(output) == before
    assert manifest(output) == rows
    assert kept.stat().st_mtime_ns == stamp


def test_a_collection_that_changed_is_compressed_as_it_is_now(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(collection, output, "--quality", "10") == 0
    assert "of no image" not in capsys.readouterr().err
    replaced, removed = collection / "cat/a.jpg", collection / "dog/a.jpg"
    before = files(output)
    removed.unlink()
    replaced.write_bytes(encode(photo(90, 120, 7)))
    os.utime(replaced, (time.time() + 1,) * 2)  # clocks of file systems are coarse
    assert run(collection, output, "--quality", "10") == 0
    after = files(output)
    assert after["q10/cat/a.jpg"] != before["q10/cat/a.jpg"]
    assert after["q10/cat/b.JPEG"] == before["q10/cat/b.JPEG"]
    assert "of this collection: 1, such as 'q10/dog/a.jpg'; remove" in capsys.readouterr().err
    assert "q10/dog/a.jpg" not in {row["path"] for row in manifest(output)}


def test_an_image_whose_name_changed_its_case_keeps_its_file(
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    run(collection, output, "--quality", "10")
    (collection / "cat/a.jpg").rename(collection / "cat/A.jpg")
    assert run(collection, output, "--quality", "10") == 0
    assert "of this collection: 1, such as 'q10/cat/a.jpg'; remove" in capsys.readouterr().err

    def listed_without_case(folder: str) -> list[str]:
        """A disk that ignores case has one file, under the old name."""
        return [file for file in list_folder(folder) if not file.endswith("A.jpg")]

    monkeypatch.setattr("jobs.compress.list_folder", listed_without_case)
    assert run(collection, output, "--quality", "10") == 0
    assert "of no image" not in capsys.readouterr().err


def test_a_uri_is_the_same_input_in_every_folder(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, collection):
        monkeypatch.chdir(folder)
        assert run(collection.as_uri(), tmp_path / "out", "--quality", "10") == 0


def test_further_sets_join_the_manifest(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    for flags in (("10", "15"), ("25", "--times", "1"), ("15", "20")):
        assert run(collection, output, "--quality", *flags) == 0
    assert "6 images, 1 damaged, 1 rejected; 5 sets" in capsys.readouterr().err
    sets = Counter(row["set"] for row in manifest(output))
    assert sets == {"q10": 4, "q15": 4, "q20": 4, "q25": 4, "times1": 4, None: 2}
    shutil.rmtree(output / "q10")  # a set that was removed is no longer listed
    assert run(collection, output, "--quality", "25") == 0
    assert {row["set"] for row in manifest(output)} == {"q15", "q20", "q25", "times1", None}
    whole = (output / MANIFEST).read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for damaged in (b"half a file", whole[:-footer] + bytes(footer - 8) + whole[-8:]):
        (output / MANIFEST).write_bytes(damaged)
        assert run(collection, output, "--quality", "25") == 1
        assert re.search(r"cannot read '.*manifest.parquet' .*: remove it", capsys.readouterr().err)


def test_other_settings_are_refused(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    run(collection, output, "--quality", "10")
    assert run(collection, output, "--quality", "10", "--subsampling", "4:4:4") == 1
    assert "subsampling was '4:2:0', is now '4:4:4'" in capsys.readouterr().err
    assert run(collection, output, "--quality", "20") == 0  # one more set is no other setting
    assert run(tmp_path / "nowhere", output) == 1


def test_the_output_of_another_job_is_refused(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"run_id": "1", "settings": {"top_k": 5}}')
    assert run(collection, tmp_path, "--quality", "10") == 1
    assert "run.json' belongs to another job: choose another --output" in capsys.readouterr().err


def test_a_disk_that_is_full_is_named_with_the_way_on(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    flags = ("--quality", *map(str, range(1, 31)))
    assert run(collection, output, *flags) == 0
    (output / MANIFEST).unlink()
    for room in (1500, 100):  # for run.json, for nothing
        with room_for(room):
            assert run(collection, output, *flags) == 1
    [first, second] = capsys.readouterr().err.splitlines()[-2:]
    assert first == (
        f"afd compress: cannot go on with the output {output}: [Errno 27] File too large;"
        " the same command continues the run"
    )
    assert second == (
        f"afd compress: cannot write to the output folder {str(output)!r}: File too large"
    )


def test_a_token_that_expires_is_one_line(
    expired: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(expired, tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        "afd compress: HTTP 403 ExpiredToken: the credentials in the environment have expired;"
        " the same command continues the run\n"
    )


def test_a_tar_gives_the_same_sets_as_its_folder(collection: Path, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(collection.rglob("*.*")):
            tar.add(path, path.relative_to(collection))
        escape = tarfile.TarInfo("../../outside.jpg")
        escape.size = len(data := encode(photo(16, 16)))
        tar.addfile(escape, io.BytesIO(data))
    run(collection, tmp_path / "a", "--quality", "10")
    run(archive, tmp_path / "b", "--quality", "10")
    found = files(tmp_path / "b")
    assert found.pop("q10/outside.jpg")
    assert found == files(tmp_path / "a")


def test_its_own_files_are_no_input(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = collection / "out"
    for _ in range(2):
        assert run(collection, output, "--quality", "10") == 0
        assert len(manifest(output)) == 6
    assert run(collection, collection, "--quality", "10") == 1
    assert "is the input's own: choose another --output" in capsys.readouterr().err


def test_random_compressions_are_drawn_by_name(collection: Path, tmp_path: Path) -> None:
    settings = CompressSettings(
        input=str(collection), output=str(tmp_path / "out"), quality=(), times=3
    )
    summary = compress_collection(settings)
    assert summary["sets"] == {"times1": 4, "times2": 4, "times3": 4}
    drawn = drawn_qualities("cat/a.jpg", 0, 3)
    assert drawn[:2] == drawn_qualities("cat/a.jpg", 0, 2)
    assert drawn != drawn_qualities("cat/b.jpg", 0, 3)
    rgb = open_rgb((collection / "cat/a.jpg").read_bytes())
    written = (tmp_path / "out/times3/cat/a.jpg").read_bytes()
    np.testing.assert_array_equal(decompress(written), degrade(rgb, drawn))
    compress_collection(replace(settings, output=str(tmp_path / "moved"), shift_grid=True))
    moved = (tmp_path / "moved/times3/cat/a.jpg").read_bytes()
    shift = drawn_grid_shift("cat/a.jpg", 0)
    assert moved != written
    assert moved == compressed_file(
        rgb, drawn, protocol=FULL_IMAGE, geometry=GEOMETRY, grid_shift=shift
    )


def test_imagenet_c_is_the_models_window_saved_twice() -> None:
    rgb = photo(300, 400)
    data = compressed_file(rgb, (10,), protocol=IMAGENET_C, geometry=GEOMETRY)
    expected = degrade(model_window(rgb, GEOMETRY), (10, 85))
    np.testing.assert_array_equal(decompress(data), expected)
    assert expected.shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality", "0"], "--quality 0 is not between 1 and 100"),
        (["--quality", "high"], "--quality 'high' is not a whole number"),
        (["--crop", "0", "--protocol", "imagenet-c"], "crop 0 is not positive"),
        (["--subsampling", "4:2:1"], "4:2:1"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["x", "--output", "y", *flags])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert message in error
    assert "\n" not in error
