"""`make gpu-check`: a word and a failure without a device; with one, all GPU tests are run."""

from pathlib import Path

import pytest
import torch

from jobs import gpu_check
from jobs.benchmark_settings import BenchmarkSettings
from jobs.command_line import parse

TESTS = Path(__file__).parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device: make gpu-check tells")
def test_without_a_device_it_says_so_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("gpu-check: there is no device 'cuda', PyTorch sees 0 CUDA devices")


def test_every_gpu_test_is_run() -> None:
    marked = {p.name for p in TESTS.glob("test_*.py") if "mark.gpu" in p.read_text()}
    marked.remove(Path(__file__).name)  # which only names the marker
    assert {f"tests/{name}" for name in marked} == set(gpu_check.GPU_TESTS)


def test_the_sweep_is_a_command_line_that_the_users_overrides() -> None:
    arguments = [*gpu_check._sweep(16), "--batch-size", "64", "--backbone", "resnet18"]
    settings = parse(BenchmarkSettings, arguments, prog="gpu-check")
    assert settings.workers == (1, 2, 4, 8)
    assert settings.threads == ("auto", 8)
    assert settings.hw_decoder_load == (0, 0.35, 0.65, 0.95)
    assert settings.batch_size == (64,)
    assert settings.device == "cuda"
