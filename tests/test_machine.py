"""The machine's resources, as the system reports them."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jobs import machine
from jobs.machine import memory_bytes, num_cores, release_free_memory

# All blocks but the last, which stands above them, are free.
FRAGMENTED = """
import psutil
from jobs.machine import release_free_memory
blocks = [bytes(60_000) for _ in range(5000)]
last = blocks[-1]
del blocks
held = psutil.Process().memory_info().rss
release_free_memory()
print(held - psutil.Process().memory_info().rss)
"""


def test_free_memory_goes_back_to_the_system() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) > 200e6


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 64)],
)
def test_a_containers_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert num_cores() == cores


def test_there_is_something_to_run_on() -> None:
    assert 1 <= num_cores() <= (psutil.cpu_count() or 1)
    assert 0 < memory_bytes() <= psutil.virtual_memory().total
    release_free_memory()  # nothing to give is no error
