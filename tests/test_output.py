"""Files appear whole or not at all, and a folder that cannot be used says so at once."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from pipeline.output import DamagedError, OutputError, OutputFolder
from pipeline.stores.errors import SourceError, TransientStoreError


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["run.json", "labels/part-00000.parquet"])
def test_a_file_appears_when_the_block_ends(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with OutputFolder(str(tmp_path)).staged(name) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        # Readers of the data set skip names that begin with a dot, and see labels/ alone.
        assert temporary.relative_to(tmp_path).parts[0].startswith(".")
        assert os.stat(temporary).st_dev == os.stat(tmp_path).st_dev  # so that the rename is one
    assert path.read_bytes() == b"half"
    assert files_below(tmp_path) == [name]


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """pyarrow cannot write there, and DuckDB cannot read."""
    with pytest.raises(OutputError, match=r"udcff' has a name that is not UTF-8.*choose another"):
        OutputFolder(f"{tmp_path}/labels-\udcff")


def fail_half_way(path: Path) -> None:
    path.write_bytes(b"new, but not all of it")
    raise KeyError


def test_a_failure_leaves_nothing_new_and_the_old_untouched(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        staged = OutputFolder(str(tmp_path)).staged(path.name)
        with pytest.raises(KeyError), staged as temporary:
            fail_half_way(temporary)
        assert (path.read_bytes() if path.exists() else None) == before
        assert files_below(tmp_path) == ([] if before is None else ["summary.json"])


def test_a_process_that_dies_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    code = f"""
        import os
        from pipeline.output import OutputFolder
        with OutputFolder({str(tmp_path)!r}).staged("labels/part-00000.parquet") as temporary:
            temporary.write_bytes(b"half")
            os._exit(9)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert died.returncode == 9
    assert not (tmp_path / "labels" / "part-00000.parquet").exists()
    assert len(files_below(tmp_path)) == 1
    OutputFolder(str(tmp_path)).clean()
    assert files_below(tmp_path) == []


def test_writers_of_one_file_never_mix(tmp_path: Path) -> None:
    output, name = OutputFolder(str(tmp_path)), "labels/part-00000.parquet"
    seen: set[bytes] = set()
    start = threading.Barrier(4)

    def write(letter: bytes) -> None:
        start.wait()
        for _ in range(25):
            with output.staged(name) as temporary, temporary.open("wb") as file:
                for _ in range(20):
                    file.write(letter * 50)
                    file.flush()
            seen.add(output.read(name))

    threads = [
        threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= {letter * 1000 for letter in (b"a", b"b", b"c", b"d")}
    assert files_below(tmp_path) == ["labels/part-00000.parquet"]


def test_a_folder_that_cannot_be_written_to_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for location in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"cannot write to the output folder '/.*file"):
            OutputFolder(str(location)).create()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels").write_text("in the way")
    with pytest.raises(OutputError, match=r"out': File exists"):
        OutputFolder(str(tmp_path / "out")).create()


def test_labels_that_take_no_file_are_found_out_before_anything_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's, or a link to another disk: a part is renamed from beside the folder."""
    replace = os.replace
    refused = {errno.EACCES: "Permission denied", errno.EXDEV: "Invalid cross-device link"}
    for number, reason in refused.items():

        def refuse(source: Path, target: Path, number: int = number) -> None:
            if Path(target).parent.name == "labels":
                raise OSError(number, os.strerror(number), str(source), None, str(target))
            replace(source, target)

        monkeypatch.setattr("os.replace", refuse)
        wanted = f"cannot write to labels/ in the output folder {str(tmp_path)!r}: {reason}"
        with pytest.raises(OutputError, match=f"^{re.escape(wanted)}$"):
            OutputFolder(str(tmp_path)).create()
    assert files_below(tmp_path) == []


def test_labels_on_another_disk_are_refused(tmp_path: Path) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "labels").symlink_to(elsewhere)
        with pytest.raises(OutputError, match=r"write to labels/ in .*: Invalid cross-device"):
            OutputFolder(str(tmp_path)).create()


@pytest.mark.parametrize(
    "location", ["https://host/out", "hf://datasets/a/b", "s3://", "file:///a"]
)
def test_what_cannot_be_written_to_is_refused(location: str) -> None:
    with pytest.raises(OutputError, match=f"cannot write to '{location}': give a path"):
        OutputFolder(location)


@pytest.mark.parametrize("secret", ["hunter2", "hunt/er2"])
def test_credentials_do_not_show_when_they_are_refused(secret: str) -> None:
    with pytest.raises(SourceError, match="'s3://bucket/out' was given with credentials"):
        OutputFolder(f"s3://key:{secret}@bucket/out")


def test_a_job_that_works_on_a_disk_refuses_a_bucket() -> None:
    with pytest.raises(OutputError, match="'s3://bucket/out' is in a bucket, and this job"):
        _ = OutputFolder("s3://bucket/out/").path


def test_creating_leaves_no_trace_and_does_not_mind_company(tmp_path: Path) -> None:
    """A scheduler may start the driver a second time while the first one still runs."""
    errors: list[Exception] = []
    start = threading.Barrier(4)

    def create() -> None:
        start.wait()
        for _ in range(40):
            try:
                OutputFolder(str(tmp_path / "out")).create()
            except OutputError as error:
                errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files_below(tmp_path) == []
    assert (tmp_path / "out" / "labels").is_dir()


def test_json_goes_round(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    content = {"input": "café \U0001f600", "crop": 224, "resize": None, "nested": {"a": [1.5]}}
    assert output.read_json("run.json") is None
    output.write_json("run.json", content)
    assert output.read_json("run.json") == content
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("damaged", [b"", b'{"a": 1', b"[1, 2]", b"null", b'{"a": "\xff"}'])
def test_damaged_json_is_named_with_the_way_out(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "run.json").write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"run.json' is damaged"):
        OutputFolder(str(tmp_path)).read_json("run.json")


def test_json_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for location in ("photo.jpg", "photo.jpg/out"):
        with pytest.raises(
            OutputError, match=r"photo\.jpg.*' is a file, .*choose another --output"
        ):
            OutputFolder(str(tmp_path / location)).read_json("run.json")
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OutputError, match=r"\Acannot read '/.*/run\.json': Is a directory\Z"):
        OutputFolder(str(tmp_path)).read_json("run.json")

    def unreachable(location: str) -> bytes:
        raise TransientStoreError("no answer in time; tried 8 times in 80.0 s")

    monkeypatch.setattr("pipeline.stores.storage.read", unreachable)
    with pytest.raises(
        OutputError, match=r"\Acannot read 's3://b/out/run\.json': no answer in time"
    ):
        OutputFolder("s3://b/out").read_json("run.json")


def test_attempts_are_counted_across_processes_until_they_end(tmp_path: Path) -> None:
    def another() -> OutputFolder:
        return OutputFolder(str(tmp_path))

    assert [another().begin_attempt("part-00001") for _ in range(12)] == list(range(1, 13))
    assert another().begin_attempt("part-00002") == 1
    another().end_attempts("part-00001")
    assert another().begin_attempt("part-00001") == 1
    assert another().begin_attempt("part-00002") == 2
    another().clean()
    assert another().begin_attempt("part-00002") == 1


def test_two_attempts_at_once_never_get_one_number(tmp_path: Path) -> None:
    numbers: list[int] = []

    def begin() -> None:
        numbers.extend(OutputFolder(str(tmp_path)).begin_attempt("part-00000") for _ in range(15))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 61))
