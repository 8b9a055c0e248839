"""Daft's own way to label images, next to `afd label`: same files, weights and precision.

    pip install daft
    python benchmarks/daft_images.py IMAGES [--rounds 3] [--backbone mobilenet_v3_small]

The peer is Daft's image pipeline: `from_glob_path`, `download`, `decode_image`, then torchvision's
transforms and the model in a class that holds it, a batch at a time, and `write_parquet`. It runs
with Daft's native runner.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from paired_runs import compare, transforms


def run_peer(arguments: argparse.Namespace, output: str) -> dict[str, float]:
    """Label with Daft alone."""
    import daft
    import pyarrow.parquet as pq
    import torch
    from daft import DataType, col
    from daft.functions import decode_image, download

    from afd_model.backbones import load_backbone

    preprocess = transforms(arguments)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]
    answer = {
        "label": DataType.int64(),
        "confidence": DataType.float32(),
        "started_at": DataType.float64(),
    }

    @daft.cls(max_concurrency=1, use_process=False)
    class Labeler:
        def __init__(self) -> None:
            self.started_at = 0.0
            module = load_backbone(arguments.backbone, arguments.weights).module
            self.model = module.to(dtype=dtype, memory_format=torch.channels_last)

        @daft.method.batch(
            return_dtype=DataType.struct(answer), unnest=True, batch_size=arguments.batch_size
        )
        def label(self, images: daft.Series) -> list[dict[str, Any]]:
            self.started_at = self.started_at or time.time()
            pictures = (torch.from_numpy(image).permute(2, 0, 1) for image in images.to_pylist())
            pixels = torch.stack([preprocess(picture) for picture in pictures])
            with torch.inference_mode():
                logits = self.model(pixels.to(dtype=dtype, memory_format=torch.channels_last))
                confidence, label = logits.float().softmax(1).max(1)
            found = zip(label.tolist(), confidence.tolist(), strict=True)
            return [{"label": n, "confidence": p, "started_at": self.started_at} for n, p in found]

    labeler = Labeler()
    (
        daft.from_glob_path(f"{arguments.images}/**")
        .with_column("image", decode_image(download(col("path")), mode="RGB"))
        .select(col("path"), labeler.label(col("image")))
        .write_parquet(output)
    )
    ended_at = time.time()
    started_at = pq.read_table(output, columns=["started_at"])["started_at"].to_numpy()
    return {
        "images": len(started_at),
        "images_per_s": len(started_at) / (ended_at - started_at.min()),
    }


if __name__ == "__main__":
    compare(__doc__, {"daft": run_peer})
