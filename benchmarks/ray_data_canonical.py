"""Ray Data's own way to label images, next to `afd label`: same files, weights and precision.

    python benchmarks/ray_data_canonical.py IMAGES [--rounds 3] [--backbone mobilenet_v3_small]

The peer is the pipeline of Ray's batch-inference guide: `read_images` -> torchvision transforms ->
the model in an actor -> `write_parquet`. The two run in turn, each in a process of its own with a
Ray of its own. Speed is images over the time from the first batch's start to the end, so neither
pays for start-up. The last line is one JSON document.
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
import time
from pathlib import Path
from typing import Any

BATCH_SIZE = 32


def run_peer(images: str, output: str, backbone: str) -> dict[str, float]:
    """Label with Ray Data alone. Returns {"images", "images_per_s"}."""
    import numpy as np
    import pyarrow.parquet as pq
    import ray
    import torch
    from ray.data import ActorPoolStrategy
    from torchvision.models import get_model, get_model_weights

    preprocess = get_model_weights(backbone).DEFAULT.transforms()

    def transform(row: dict[str, Any]) -> dict[str, Any]:
        picture = torch.from_numpy(row["image"]).permute(2, 0, 1)
        return {"path": row["path"], "pixels": preprocess(picture).numpy()}

    class Labeler:
        def __init__(self) -> None:
            self.started_at = 0.0
            self.model = get_model(backbone, weights=None).eval()

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
            self.started_at = self.started_at or time.time()
            with torch.inference_mode():
                confidence, label = self.model(torch.from_numpy(batch["pixels"])).softmax(1).max(1)
            return {
                "path": batch["path"],
                "label": label.numpy(),
                "confidence": confidence.numpy(),
                "started_at": np.full(len(label), self.started_at),
            }

    ray.init(include_dashboard=False, log_to_driver=False)
    (
        ray.data.read_images(images, include_paths=True, mode="RGB")
        .map(transform)
        .map_batches(Labeler, batch_size=BATCH_SIZE, compute=ActorPoolStrategy(size=1), num_cpus=1)
        .write_parquet(output)
    )
    ended_at = time.time()
    started_at = pq.read_table(output, columns=["started_at"])["started_at"].to_numpy()
    ray.shutdown()
    return {
        "images": len(started_at),
        "images_per_s": len(started_at) / (ended_at - started_at.min()),
    }


def run_ours(images: str, output: str, backbone: str) -> dict[str, float]:
    """Label with `afd label`. Returns {"images", "images_per_s"}."""
    from jobs.label import label
    from jobs.settings import LabelSettings

    settings = LabelSettings(
        input=images,
        output=output,
        backbone=backbone,
        weights="none",
        afd="none",
        precision="fp32",
        batch_size=BATCH_SIZE,
        images_per_shard=200,
    )
    summary = label(settings)
    return {"images": summary.images, "images_per_s": summary.images_per_s}


RUNNERS = {"ours": run_ours, "peer": run_peer}


def measure(name: str, arguments: argparse.Namespace) -> float:
    """One run in a new process: images per second. Raises RuntimeError when images are missing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, arguments.images, "--backbone", arguments.backbone]
        command += ["--run", name, "--output", str(Path(folder) / "out")]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(printed.splitlines()[-1])
    planned = sum(path.is_file() for path in Path(arguments.images).rglob("*"))
    if result["images"] != planned:
        raise RuntimeError(f"{name} labelled {result['images']} of {planned} images")
    return float(result["images_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--backbone", default="mobilenet_v3_small", help="a torchvision name")
    parser.add_argument("--run", choices=RUNNERS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(
            json.dumps(
                RUNNERS[arguments.run](arguments.images, arguments.output, arguments.backbone)
            )
        )
        return
    speeds: dict[str, list[float]] = {name: [] for name in RUNNERS}
    for round_number in range(arguments.rounds):
        for name in RUNNERS:
            speeds[name].append(measure(name, arguments))
            print(f"round {round_number}: {name} {speeds[name][-1]:.1f} images/s", file=sys.stderr)
    ratios = [ours / peer for ours, peer in zip(speeds["ours"], speeds["peer"], strict=True)]
    result = {
        "backbone": arguments.backbone,
        "images_per_s": speeds,
        "ratio": ratios,
        "ratio_median": statistics.median(ratios),
        "cpus": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
