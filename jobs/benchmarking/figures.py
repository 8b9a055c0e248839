"""Rounds -> the benchmark's figures: spreads, the speed of light, and the job's share of it.

A ratio is computed within each round, whose parts ran shortly after each other; then the median.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.benchmarking.stages import Cost
from jobs.benchmarking.workers import JobRun

# The stages that need a CPU core. Reading mostly waits for the disk.
_CPU_WORK = ("decode", "dct", "model")
_TITLES = {
    "read": "read",
    "header_scan": "header scan",
    "screen": "screen (scan and integrity)",
    "decode_and_dct": "decode, resize, DCT",
    "decode": "decode, resize",
    "dct": "DCT",
    "backbone": "backbone alone",
    "model": "model, as in the job",
    "afd_module": "AFD-Module alone",
    "write": "write",
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round: each stage alone, then the whole job."""

    stages: dict[str, Cost]
    job: JobRun


def cpu_speed_of_light(stages: Mapping[str, Cost], cores: int) -> float:
    """Images/s if all cores did nothing but decode, transform and classify."""
    work = [stages[name] for name in _CPU_WORK if name in stages]  # no DCT without a module
    return cores / sum(cost.cpu_s / cost.images for cost in work)


def gpu_speed_of_light(stages: Mapping[str, Cost]) -> float:
    """Images/s if decoding and the model ran in parallel, each as fast as alone."""
    return min(stages[name].images / stages[name].wall_s for name in ("decode_and_dct", "model"))


def figures(
    rounds: Sequence[Round], *, cuda: bool, cores: int, with_module: bool
) -> dict[str, Any]:
    """The measured part of the JSON document. with_module: the model has an AFD-Module."""

    def light(done: Round) -> float:
        return gpu_speed_of_light(done.stages) if cuda else cpu_speed_of_light(done.stages, cores)

    def added(done: Round) -> float:
        model, backbone = done.stages["model"], done.stages["backbone"]
        return model.wall_s / backbone.wall_s - 1 if cuda else model.cpu_s / backbone.cpu_s - 1

    def over(rounds_to: Callable[[Round], float]) -> dict[str, float]:
        return spread([rounds_to(done) for done in rounds])

    last = rounds[-1].job
    return {
        "rounds": len(rounds),
        "stages": {name: _stage(name, rounds) for name in rounds[0].stages},
        "whole_job": {
            "images": last.images,
            "counts": {status: count for status, count in last.counts.items() if count},
            "images_per_s": over(lambda done: done.job.images_per_s),
            "cpu_ms_per_image": over(lambda done: done.job.cpu_s / done.job.images * 1e3),
            "seconds": {stage: _rounded(s) for stage, s in sorted(last.seconds.items())},
        },
        "speed_of_light": {
            "images_per_s": over(light),
            "formula": "min(decode_and_dct, model) images/s"
            if cuda
            else "cores / sum of cpu seconds of decode, dct, model",
        },
        "whole_job_over_speed_of_light": over(lambda done: done.job.images_per_s / light(done)),
        "afd_added_time": over(added) if with_module else None,
    }


def _stage(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    costs = [done.stages[name] for done in rounds]
    return {
        "images": costs[0].images,
        "cpu_ms_per_image": spread([cost.cpu_s / cost.images * 1e3 for cost in costs]),
        "wall_ms_per_image": spread([cost.wall_s / cost.images * 1e3 for cost in costs]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """{"median", "min", "max"}, rounded to four digits."""
    return {
        "median": _rounded(statistics.median(values)),
        "min": _rounded(min(values)),
        "max": _rounded(max(values)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def table(result: Mapping[str, Any]) -> str:
    """The document's figures as a table for people: medians, with minimum and maximum."""
    job, light = result["whole_job"], result["speed_of_light"]
    ratio, added = result["whole_job_over_speed_of_light"], result["afd_added_time"]
    lines = [f"{'':<30}{'images':>8}  {'CPU ms/image':>30}  {'wall ms/image':>30}"]
    for name, stage in result["stages"].items():
        cpu, wall = _words(stage["cpu_ms_per_image"]), _words(stage["wall_ms_per_image"])
        lines.append(f"{_TITLES[name]:<30}{stage['images']:>8}  {cpu:>30}  {wall:>30}")
    lines += [
        f"{'whole job':<30}{job['images']:>8}  {_words(job['cpu_ms_per_image']):>30}",
        "",
        f"whole job       {_words(job['images_per_s'])} images/s",
        f"speed of light  {_words(light['images_per_s'])} images/s = {light['formula']}",
        f"ratio           {_words(ratio)}",
    ]
    if added is not None:
        lines.append(f"AFD-Module adds {_words(added)} of the backbone's time")
    return "\n".join(lines)


def _words(values: Mapping[str, float]) -> str:
    return f"{values['median']:g} ({values['min']:g}-{values['max']:g})"
