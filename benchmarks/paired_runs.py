"""`afd label` and a peer in turn, each in a process of its own, on the same files and weights.

A peer's program gives `compare` one function that labels a folder: images, output, options ->
{"images", "images_per_s"}, speed counted from its first batch on, so that nobody pays for start-up.
It writes Parquet with the columns `path` and `label`. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torchvision.transforms import InterpolationMode, v2

from afd_model.backbones import preprocessing_of

Labels = dict[str, int]  # path in the folder of images -> class
Runner = Callable[[argparse.Namespace, str], dict[str, float]]


def run_ours(arguments: argparse.Namespace, output: str) -> dict[str, float]:
    """Label with `afd label`."""
    from jobs.label import label
    from jobs.settings import LabelSettings

    settings = LabelSettings(
        input=arguments.images,
        output=output,
        backbone=arguments.backbone,
        weights=arguments.weights,
        afd="none",
        precision=arguments.precision,
        engine=arguments.engine,
        batch_size=arguments.batch_size,
        images_per_shard=arguments.images_per_shard,
    )
    summary = label(settings)
    return {"images": summary.images, "images_per_s": summary.images_per_s}


def transforms(arguments: argparse.Namespace) -> v2.Compose:
    """torchvision's own steps for a PIL image or a uint8 tensor -> (3, crop, crop) float32."""
    preset = preprocessing_of(arguments.backbone, arguments.weights)
    return v2.Compose(
        [
            v2.Resize(preset.resize, InterpolationMode(preset.interpolation), antialias=True),
            v2.CenterCrop(preset.crop),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preset.mean, preset.std),
        ]
    )


def compare(description: str, peers: dict[str, Runner]) -> None:
    """The program: its command line, the runs in turn, the document."""
    arguments = _parsed(description)
    runners = {"ours": run_ours, **peers}
    if arguments.run:
        print(json.dumps(runners[arguments.run](arguments, arguments.output)))
        return
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    labels: dict[str, Labels] = {}
    for number in range(arguments.rounds):
        for name in runners:
            speed, labels[name] = _measure(name, arguments)
            speeds[name].append(speed)
            print(f"round {number}: {name} {speed:.1f} images/s", file=sys.stderr)
    print(json.dumps({**_facts(arguments), **_compared(speeds, labels, arguments.weights)}))


def _parsed(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("images", help="folder of images, such as `afd benchmark --corpus` keeps")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--backbone", default="mobilenet_v3_small", help="as `afd label` takes it")
    parser.add_argument("--weights", default="none", help="as `afd label` takes them")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--engine", choices=("auto", "torch", "openvino"), default="auto", help="of afd label"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images-per-shard", type=int, default=200, help="of afd label")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(name: str, arguments: argparse.Namespace) -> tuple[float, Labels]:
    """One run in a new process: images/s and labels. Raises RuntimeError if images are missing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv, "--run", name, "--output", str(Path(folder) / "out")]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{name} failed:\n{run.stderr}")
        result = json.loads(run.stdout.splitlines()[-1])
        labels = _labels(Path(folder) / "out", arguments.images)
    planned = sum(path.is_file() for path in Path(arguments.images).rglob("*"))
    if not result["images"] == len(labels) == planned:
        raise RuntimeError(
            f"{name} labelled {result['images']} of {planned} images ({len(labels)} paths)"
        )
    return float(result["images_per_s"]), labels


def _labels(output: Path, images: str) -> Labels:
    """By the images' paths in their folder, which every pipeline names in its own way."""
    parts = output / "labels" if (output / "labels").is_dir() else output
    table = pq.read_table(parts)
    paths = table["uri" if "uri" in table.column_names else "path"].to_pylist()
    names = [os.path.relpath(path.removeprefix("file://"), images) for path in paths]
    return dict(zip(names, table["label"].to_pylist(), strict=True))


def _facts(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("backbone", "weights", "precision", "engine", "batch_size", "rounds")
    return {
        **{name: getattr(arguments, name) for name in names},
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
    }


def _compared(
    speeds: dict[str, list[float]], labels: dict[str, Labels], weights: str
) -> dict[str, Any]:
    """Speeds; and for each peer our speed over its, by round, and the share of equal labels.

    Random weights give every class the same probability, and labels that mean nothing.
    """
    ours, our_labels = speeds["ours"], labels["ours"]
    found: dict[str, Any] = {"images": len(our_labels), "images_per_s": speeds, "peers": {}}
    for name in list(speeds)[1:]:
        ratios = [a / b for a, b in zip(ours, speeds[name], strict=True)]
        equal = sum(labels[name][file] == our_labels[file] for file in our_labels)
        found["peers"][name] = {
            "ratio": ratios,
            "ratio_median": statistics.median(ratios),
            "equal_labels": None if weights == "none" else equal / len(our_labels),
        }
    return found
