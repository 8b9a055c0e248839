"""The machine's resources, as the system reports them."""

import subprocess
import sys

import psutil

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


def test_there_is_something_to_run_on() -> None:
    assert 1 <= num_cores() <= (psutil.cpu_count() or 1)
    assert 0 < memory_bytes() <= psutil.virtual_memory().total
    release_free_memory()  # nothing to give is no error
