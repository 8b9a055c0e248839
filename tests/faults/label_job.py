"""The label job as its users run it: a corpus, the command, its processes."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from jpegs import encode, photo

from jobs.demo_corpus import broken_files
from pipeline.output import LABELS, OutputFolder

# Small and random: these tests are about rows, not about what the labels are.
_MODEL = (
    *("--backbone", "mobilenet_v3_small", "--weights", "none", "--device", "cpu"),
    *("--resize", "64", "--crop", "64", "--batch-size", "8", "--progress", "off"),
)


def make_corpus(folder: Path, *, images: int = 160) -> Path:
    """Small photographs in two folders, and one broken file of each kind."""
    for index in range(images):
        path = folder / f"class{index % 2}" / f"{index:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(80 + index % 7, 90 + index % 5, seed=index % 40)))
    (folder / "broken").mkdir()
    for name, data in broken_files(encode(photo(80, 90)), np.random.default_rng(0)).items():
        (folder / "broken" / name).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Ended:
    """code: the exit code. said: standard error. wall_s: from the command to its end."""

    code: int
    said: str
    wall_s: float


class LabelJob:
    """One `afd label` process and its family."""

    def __init__(
        self,
        corpus: Path | str,
        output: Path | str,
        *flags: str,
        images_per_shard: int = 4,
        **environment: str,
    ) -> None:
        self.output = OutputFolder(str(output))
        self._began = time.monotonic()
        command = [sys.executable, "-m", "jobs.cli", "label", str(corpus), "--output", str(output)]
        command += ["--images-per-shard", str(images_per_shard), *_MODEL, *flags]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        # A group of its own: what a terminal sends to a job reaches this one alone.
        variables = {**os.environ, **environment}
        self.driver = psutil.Popen(command, stderr=self._log, start_new_session=True, env=variables)

    def wait_for_parts(self, count: int, timeout_s: float = 300) -> bool:
        """Whether so many parts were seen before the job ended."""
        deadline = time.monotonic() + timeout_s
        while len(self.output.modification_times(LABELS)) < count:
            if self.driver.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {count} parts after {timeout_s} s")
            time.sleep(0.01)
        return True

    def family(self) -> list[psutil.Process]:
        """Ray's processes and the workers, not the driver."""
        try:
            found: list[psutil.Process] = self.driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def workers(self) -> list[psutil.Process]:
        return [p for p in self.family() if "ShardLabeler" in command_of(p)]

    def end(self, timeout_s: float = 600) -> Ended:
        """Wait for the driver, and for what it started: a survivor would be a third hand."""
        family = self.family()
        code = self.driver.wait(timeout_s)
        wall_s = time.monotonic() - self._began
        _, alive = psutil.wait_procs(family, timeout=30)
        for process in alive:
            process.kill()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        self._log.close()
        return Ended(code, said, wall_s)


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def run(corpus: Path | str, output: Path | str, *flags: str, images_per_shard: int = 4) -> Ended:
    """The command from beginning to end, which may take hours."""
    job = LabelJob(corpus, output, *flags, images_per_shard=images_per_shard)
    return job.end(timeout_s=86400)
