"""What a program's processes hold over time, and whether that grows."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SAMPLE_S = 2.0
_WARM_UP = 0.2  # of the samples
_LIVED = 0.7  # of the run's samples make a process worth a line
_BLOCKS = 10
_T_95 = 2.306  # two-sided, of Student's t with _BLOCKS - 2 degrees of freedom


@dataclass
class History:
    """Of one process. anonymous_mb: of the proportional share, what belongs to no file."""

    name: str
    at_s: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)
    anonymous_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def sample(self, process: psutil.Process, at_s: float) -> None:
        with process.oneshot():
            memory = _rollup_mb(process.pid)
            threads, files = process.num_threads(), process.num_fds()
        self.pss_mb.append(memory["Pss"])
        self.anonymous_mb.append(memory["Pss_Anon"])
        self.threads.append(threads)
        self.files.append(files)
        self.at_s.append(at_s)


def _rollup_mb(pid: int) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError as error:  # the process has just ended
        raise psutil.NoSuchProcess(pid) from error
    found = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) / 1e3 for words in found}


def watch(driver: psutil.Popen) -> tuple[list[History], History]:
    """Sample until the driver ends: every process of its, and as a history what /dev/shm holds."""
    began = time.monotonic()
    found: dict[int, History] = {}
    shared = History("/dev/shm")
    while driver.poll() is None:
        at_s = time.monotonic() - began
        for process in (driver, *driver.children(recursive=True)):
            try:
                history = found.setdefault(process.pid, History(""))
                history.name = _name(process)  # Ray's workers change it
                history.sample(process, at_s)
            except psutil.Error:
                continue
        shared.at_s.append(at_s)
        shared.pss_mb.append(shutil.disk_usage("/dev/shm").used / 1e6)
        time.sleep(SAMPLE_S)
    return list(found.values()), shared


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0].partition(".__init__")[0]
    program = next((word for word in words if word.endswith((".py", "jobs.cli"))), words[0])
    return Path(program).name


def growth(histories: list[History], shared: History) -> dict[str, Any]:
    """What each process that lived through most of the run held, and the slopes after warm-up."""
    most = max(len(h.at_s) for h in histories)
    lines = defaultdict(list)
    for h in histories:
        if len(h.at_s) >= max(_LIVED * most, 4 * _BLOCKS):
            lines[h.name].append(_line(h))
    return {
        "processes": dict(lines),
        "dev_shm_mb": [round(shared.pss_mb[0], 1), round(shared.pss_mb[-1], 1)],
    }


def _line(h: History) -> dict[str, Any]:
    start = int(_WARM_UP * len(h.at_s))
    return {
        "peak_pss_mb": round(max(h.pss_mb)),
        "mean_pss_mb_of_fifths": [round(float(mb.mean())) for mb in np.array_split(h.pss_mb, 5)],
        "peak_pss_mb_of_fifths": [round(max(mb)) for mb in np.array_split(h.pss_mb, 5)],
        "anonymous_mb_per_hour": slope(h.at_s[start:], h.anonymous_mb[start:]),
        "threads": [h.threads[start], max(h.threads), h.threads[-1]],
        "open_files": [h.files[start], max(h.files), h.files[-1]],
    }


def slope(at_s: list[float], values: list[float]) -> dict[str, float]:
    """Per hour, with the half width of its 95 % interval.

    Of the means of ten blocks: neighbouring samples of a memory's size are no independent ones.
    """
    hours = np.array([block.mean() for block in np.array_split(at_s, _BLOCKS)]) / 3600
    means = np.array([block.mean() for block in np.array_split(values, _BLOCKS)])
    (found, _), residuals, *_ = np.polyfit(hours, means, 1, full=True)
    spread = ((hours - hours.mean()) ** 2).sum()
    error = (float(residuals[0]) / (_BLOCKS - 2) / spread) ** 0.5
    return {"slope": round(float(found), 1), "plus_or_minus": round(_T_95 * error, 1)}
