"""The benchmark's counts, its document and its arithmetic; never how long anything took."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from checkpoints import MINIATURE
from jpegs import encode, photo

from afd_model.stage_correction import StageCorrection
from jobs.benchmark import main
from jobs.benchmark_settings import BenchmarkSettings
from jobs.benchmarking.figures import (
    Round,
    cpu_speed_of_light,
    figures,
    gpu_speed_of_light,
    spread,
    table,
)
from jobs.benchmarking.stages import Cost, Stages
from jobs.benchmarking.workers import JobRun, Workers
from jobs.machine import num_cores
from jobs.settings import LabelSettings
from pipeline.sources import list_images

SMALL = ["--backbone", "mobilenet_v3_small", "--weights", "none", "--device", "cpu"]


def test_a_small_run_counts_every_image_and_ends_in_one_json_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record, corpus = tmp_path / "record.jsonl", tmp_path / "corpus"
    record.write_text('{"earlier": true}\n')
    arguments = [*SMALL, "--num-images", "7", "--rounds", "2", "--workers", "2"]
    arguments += ["--images-per-shard", "7", "--batch-size", "4"]
    arguments += ["--corpus", str(corpus), "--record", str(record)]
    assert main(arguments) == 0
    printed, said = capfd.readouterr()
    out = printed.splitlines()
    assert len(out) == 1
    assert record.read_text().splitlines() == ['{"earlier": true}', out[0]]
    assert str(tmp_path) not in out[0]
    result = json.loads(out[0])
    assert said.endswith(f"\n{table(result)}\n")
    assert len(table(result).splitlines()) > len(result["stages"])
    _check_document(result)
    assert len(list(corpus.iterdir())) == 7  # kept for the next run


def _check_document(result: dict[str, Any]) -> None:
    assert result["whole_job"]["counts"] == {"ok": 7}
    assert result["rounds"] == 2
    images = {name: stage["images"] for name, stage in result["stages"].items()}
    everything = ("read", "header_scan", "screen", "decode_and_dct", "decode", "write")
    assert images == {
        **dict.fromkeys(everything, 7),
        **dict.fromkeys(("dct", "backbone", "model", "afd_module"), 7),
    }
    assert result["corpus"]["own"]
    assert result["corpus"]["images"] == result["corpus"]["jpegs"] == 7
    assert result["machine"]["cores"] == num_cores()
    assert result["machine"]["cpu"]
    assert result["machine"]["gpu"] is None
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["model"]["backbone"] == "mobilenet_v3_small"
    assert result["settings"]["workers"] == 1  # of the two: there is one shard
    assert result["settings"]["batch_size"] == result["model"]["batch_size"] == 4
    for part in (result["whole_job"]["images_per_s"], result["speed_of_light"]["images_per_s"]):
        assert 0 < part["min"] <= part["median"] <= part["max"]


@pytest.mark.slow
def test_a_users_images_are_counted_with_what_is_wrong_with_them(tmp_path: Path) -> None:
    good = encode(photo(60, 80))
    for name, data in (("a.jpg", good), ("b.jpg", b"no image"), ("c.jpg", good), ("d.jpg", good)):
        (tmp_path / name).write_bytes(data)
    refs = list(list_images(str(tmp_path)))
    settings = label_settings(tmp_path / "out", images_per_shard=3)
    with Workers(settings, refs, num_workers=2, num_threads=1) as workers:
        assert workers.num_workers == 2
        for _ in range(2):  # the second run finds nothing of the first
            run = workers.run()
            assert run.images == 4
            assert run.counts["ok"] == 3
            assert run.counts["rejected"] == 1
            assert {"read", "decode", "dct", "model", "rows", "write"} <= set(run.seconds)
        decoded = workers.decode_alone()
        assert decoded.images == 3
        assert decoded.wall_s > 0
    stages = Stages(settings, refs, num_threads=1, scratch=tmp_path / "scratch").measure()
    assert stages["read"].images == 4
    assert stages["decode_and_dct"].images == stages["model"].images == 3
    assert not {"afd_module", "dct"} & set(stages)
    assert stages["write"].images == 3


def test_the_module_alone_is_asked_all_that_the_model_asks_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo(60, 80)))
    refs = list(list_images(str(tmp_path)))
    settings = replace(label_settings(tmp_path / "out"), afd="untrained")
    stages = Stages(settings, refs, num_threads=1, scratch=tmp_path / "scratch")
    asked: list[torch.Size] = []

    def noted(correction: StageCorrection, features: torch.Tensor) -> torch.Tensor:
        asked.append(features.shape)
        return correct(correction, features)

    correct = StageCorrection.forward
    monkeypatch.setattr(StageCorrection, "forward", noted)
    stages._predict(stages._predictor)
    by_the_model = asked.copy()
    asked.clear()
    stages._enhance()
    assert asked == by_the_model
    assert len(asked) == 3  # the stages that `light` corrects


def label_settings(output: Path, **changes: Any) -> LabelSettings:
    return LabelSettings(
        input="unused",
        output=str(output),
        backbone=MINIATURE,
        weights="none",
        afd="none",
        device="cpu",
        precision="fp32",
        **changes,
    )


def test_what_is_compiled_for_one_size_gets_pixels_of_that_size(tmp_path: Path) -> None:
    """As Inductor is: a crop of 300 pixels becomes one of 304, for the bare backbone too."""
    pytest.importorskip("openvino")
    (tmp_path / "a.jpg").write_bytes(encode(photo(80, 100)))
    settings = label_settings(tmp_path / "out", crop=64, resize=64, engine="openvino")
    refs = list(list_images(str(tmp_path / "a.jpg")))
    stages = Stages(settings, refs, num_threads=1, scratch=tmp_path / "scratch")
    assert stages.measure()["backbone"].images == 1


def test_a_worker_that_cannot_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo(60, 80)))
    # Nor is anything imported from the current folder, which may be a downloaded collection.
    (tmp_path / "multiprocessing.py").write_text("open('was imported', 'w')")
    monkeypatch.chdir(tmp_path)
    settings = label_settings(tmp_path / "out", resize=100)
    refs = list(list_images(str(tmp_path)))
    with (
        Workers(settings, refs, num_workers=1, num_threads=1) as workers,
        pytest.raises(ValueError, match="resize 100 is smaller than crop 160"),
    ):
        workers.run()
    assert not Path("was imported").exists()
    assert not os.environ.get("PYTHONSAFEPATH")  # other processes are not concerned


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_without_a_word_of_theirs(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(encode(photo(60, 80)))
    command = [sys.executable, "-c", "from jobs.cli import command; command()", "benchmark"]
    command += [str(tmp_path), "--backbone=mobilenet_v3_small", "--weights=none", "--workers=2"]
    benchmark = psutil.Popen(
        [*command, "--images-per-shard=1", "--rounds=1", "--device=cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any("spawn_main" in " ".join(child.cmdline()) for child in benchmark.children()):
        assert benchmark.poll() is None, benchmark.communicate()
        time.sleep(0.1)
    os.killpg(benchmark.pid, signal.SIGINT)  # as a terminal does
    printed, said = benchmark.communicate(timeout=60)
    assert (printed, said.splitlines()[-1]) == ("", "afd benchmark: interrupted")
    assert "Traceback" not in said


COSTS = {
    "decode_and_dct": Cost(10, cpu_s=0.05, wall_s=0.02),  # 500 images/s
    "decode": Cost(10, cpu_s=0.04, wall_s=0.02),  # 4 ms an image
    "dct": Cost(5, cpu_s=0.005, wall_s=0.01),  # 1 ms
    "backbone": Cost(4, cpu_s=0.016, wall_s=0.004),
    "model": Cost(4, cpu_s=0.020, wall_s=0.005),  # 5 ms; 800 images/s
    "afd_module": Cost(4, cpu_s=0.004, wall_s=0.001),
}


def test_the_speed_of_light_is_what_the_hardware_could_do_without_waiting() -> None:
    assert cpu_speed_of_light(COSTS, 2) == pytest.approx(2 / 0.010)
    assert gpu_speed_of_light(COSTS) == pytest.approx(500)


def test_ratios_are_taken_within_a_round() -> None:
    slow = {name: Cost(c.images, 2 * c.cpu_s, 2 * c.wall_s) for name, c in COSTS.items()}
    rounds = [
        Round(COSTS, JobRun(100, 100 / 160, 1.1, {"ok": 100, "damaged": 0}, {"model": 0.5})),
        Round(slow, JobRun(100, 100 / 90, 1.9, {"ok": 100, "damaged": 0}, {"model": 1.0})),
    ]
    found = figures(rounds, cuda=False, cores=2, with_module=True)
    assert found["whole_job_over_speed_of_light"] == {"median": 0.85, "min": 0.8, "max": 0.9}
    assert found["speed_of_light"]["images_per_s"] == {"median": 150, "min": 100, "max": 200}
    assert found["afd_added_time"] == {"median": 0.25, "min": 0.25, "max": 0.25}
    assert found["whole_job"]["counts"] == {"ok": 100}
    assert found["whole_job"]["images_per_s"] == {"median": 125, "min": 90, "max": 160}
    assert found["stages"]["model"]["cpu_ms_per_image"] == {"median": 7.5, "min": 5, "max": 10}
    on_cuda = figures(rounds, cuda=True, cores=2, with_module=True)
    assert on_cuda["speed_of_light"]["images_per_s"] == {"median": 375, "min": 250, "max": 500}


def test_what_the_module_adds_is_told_where_it_cannot_be_timed_by_itself() -> None:
    compiled = {name: COSTS[name] for name in ("decode_and_dct", "backbone", "model")}
    rounds = [Round(compiled, JobRun(100, 1.0, 1.0, {"ok": 100}, {}))]
    added = {
        with_module: figures(rounds, cuda=True, cores=2, with_module=with_module)["afd_added_time"]
        for with_module in (True, False)
    }
    assert added[True]["median"] == 0.25
    assert added[False] is None


def test_a_spread_has_four_digits() -> None:
    assert spread([1.23456, 3.0, 2.0]) == {"median": 2.0, "min": 1.235, "max": 3.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds 0 is not positive"),
        (["--batch-size", "8", "0"], "--batch-size 0 is not positive"),
        (["--hw-decoder-load", "0.5", "1.5"], "--hw-decoder-load 1.5 is not between 0 and 1"),
        (["photos", "--corpus", "kept"], "--corpus kept is for the benchmark's own images"),
    ],
)
def test_bad_settings_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_file_that_leaves_nothing_to_try_is_refused() -> None:
    with pytest.raises(ValueError, match="--workers is an empty list: leave it out"):
        BenchmarkSettings(workers=())


def test_a_record_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.benchmark.benchmark", lambda settings: pytest.fail("measured"))
    assert main(["--record", str(tmp_path / "none" / "record.jsonl")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_an_input_without_images_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("none")
    assert main([str(tmp_path), *SMALL, "--afd", "none"]) == 1
    assert capsys.readouterr().err == (
        "afd benchmark: none of the images can be decoded: give others\n"
    )
