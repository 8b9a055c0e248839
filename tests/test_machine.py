"""The machine's resources, as the system reports them."""

import gc
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jobs import machine
from jobs.machine import (
    memory_bytes,
    num_cores,
    release_free_memory,
    without_garbage_collection,
)

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


def test_what_is_imported_without_garbage_collection_is_not_looked_at_soon() -> None:
    collections: list[str] = []
    with without_garbage_collection():
        gc.callbacks.append(lambda phase, _: collections.append(phase))
        imported = [[i] for i in range(100_000)]
        gc.callbacks.pop()
    assert not collections
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    young = {id(item) for generation in (0, 1) for item in gc.get_objects(generation)}
    assert not young.intersection(map(id, imported))


def test_garbage_collection_is_left_as_it_was() -> None:
    with pytest.raises(ImportError), without_garbage_collection():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with without_garbage_collection():
        pass
    was_enabled = gc.isenabled()
    gc.enable()
    assert not was_enabled


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
