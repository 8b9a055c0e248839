"""Ray Data's own way to label images, next to `afd label`: same files, weights and precision.

    python benchmarks/ray_data_canonical.py IMAGES [--rounds 3] [--backbone mobilenet_v3_small]

The peer is the pipeline of Ray's batch-inference guide: `read_images` -> torchvision transforms ->
the model in an actor -> `write_parquet`. It runs with a Ray of its own.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from paired_runs import compare, transforms


def run_peer(arguments: argparse.Namespace, output: str) -> dict[str, float]:
    """Label with Ray Data alone."""
    import numpy as np
    import pyarrow.parquet as pq
    import ray
    import torch
    from ray.data import ActorPoolStrategy

    from afd_model.backbones import load_backbone

    preprocess = transforms(arguments)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]

    def transform(row: dict[str, Any]) -> dict[str, Any]:
        picture = torch.from_numpy(row["image"]).permute(2, 0, 1)
        return {"path": row["path"], "pixels": preprocess(picture).numpy()}

    class Labeler:
        def __init__(self) -> None:
            self.started_at = 0.0
            model = load_backbone(arguments.backbone, arguments.weights).module
            self.model = model.to(dtype, memory_format=torch.channels_last)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
            self.started_at = self.started_at or time.time()
            pixels = torch.from_numpy(batch["pixels"])
            with torch.inference_mode():
                logits = self.model(pixels.to(dtype, memory_format=torch.channels_last))
                confidence, label = logits.float().softmax(1).max(1)
            return {
                "path": batch["path"],
                "label": label.numpy(),
                "confidence": confidence.numpy(),
                "started_at": np.full(len(label), self.started_at),
            }

    # Not the one that a run which was killed has left word of.
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    (
        ray.data.read_images(arguments.images, include_paths=True, mode="RGB")
        .map(transform)
        .map_batches(
            Labeler, batch_size=arguments.batch_size, compute=ActorPoolStrategy(size=1), num_cpus=1
        )
        .write_parquet(output)
    )
    ended_at = time.time()
    started_at = pq.read_table(output, columns=["started_at"])["started_at"].to_numpy()
    ray.shutdown()
    return {
        "images": len(started_at),
        "images_per_s": len(started_at) / (ended_at - started_at.min()),
    }


if __name__ == "__main__":
    compare(__doc__, {"peer": run_peer})
