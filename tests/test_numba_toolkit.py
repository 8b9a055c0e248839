"""Kernels are compiled once per machine, and run whatever becomes of what was kept of them."""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from afd_model.inference.numba_toolkit import kernel


def test_nothing_is_taken_from_the_current_folder(tmp_path: Path) -> None:
    """Numba runs what lies in its cache."""
    (tmp_path / ".numba_config.yaml").write_text("cache_dir: here\n")
    code = "from afd_model.inference.numba_toolkit import config; print([config.CACHE_DIR])"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment) == b"['']\n"


KERNEL = """
from afd_model.inference.numba_toolkit import kernel
@kernel
def double(values):
    for k in range(len(values)):
        values[k] *= 2
"""
CALL = """
import numpy
from double import double
values = numpy.ones(2)
double(values)
print(*values, "cached" if double.stats.cache_hits else "compiled")
"""


def call(folder: Path, before: str = "") -> str:
    """What a process prints that calls a kernel."""
    if not (source := folder / "double.py").exists():  # some releases of Numba go by its time
        source.write_text(KERNEL)
    environment = {
        "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, "-P", "-c", before + CALL]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    return done.stdout or done.stderr


@pytest.mark.parametrize(("pattern", "content"), [("*.nbi", b""), ("*.nbc", b"no pickle")])
def test_a_damaged_cache_is_replaced(pattern: str, content: bytes, tmp_path: Path) -> None:
    made = [call(tmp_path)]
    (file,) = (tmp_path / "cache").rglob(pattern)
    file.write_bytes(content)
    made += [call(tmp_path) for _ in range(3)]
    # An index that was damaged is emptied first, and filled by the next process.
    assert (made[0], made[1], made[-1]) == ("2.0 2.0 compiled\n",) * 2 + ("2.0 2.0 cached\n",)


def test_a_cache_without_room_stops_no_kernel(tmp_path: Path) -> None:
    no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    assert call(tmp_path, no_room) == "2.0 2.0 compiled\n"


def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def double(x, out):  # type: ignore[no-untyped-def]
        out[:] = 2 * x

    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(double)
    out = np.zeros(3)
    kernel(double)(np.arange(3.0), out)
    assert out.tolist() == [0, 2, 4]
