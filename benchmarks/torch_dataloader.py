"""PyTorch's own way to label images, next to `afd label`: same files, weights and precision.

    python benchmarks/torch_dataloader.py IMAGES [--rounds 3] [--backbone mobilenet_v3_small]

The peer is what one writes with torchvision alone: a `DataLoader` whose worker processes read,
decode and transform, the model in channels_last in the main process, and one Parquet file. It runs
with PIL's decoder and with `torchvision.io`'s, each with one worker a core and with one in all.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from paired_runs import compare, transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from afd_model.backbones import load_backbone

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def read_with_pil(path: Path) -> Any:
    with Image.open(path) as image:
        return image.convert("RGB")


def read_with_torchvision(path: Path) -> Any:
    return decode_image(read_file(str(path)), mode=ImageReadMode.RGB)


READERS = {"pil": read_with_pil, "torchvision": read_with_torchvision}


class Images(Dataset[tuple[str, torch.Tensor]]):
    """(path, (3, crop, crop) float32 normalised) of every file of a folder."""

    def __init__(self, folder: str, preprocess: v2.Compose, reader: str) -> None:
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        self.read = READERS[reader]
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        path = self.paths[index]
        return str(path), self.preprocess(self.read(path))


@torch.inference_mode()
def run_peer(
    arguments: argparse.Namespace, output: str, *, reader: str, workers: int
) -> dict[str, float]:
    """Label with a DataLoader. The workers take a core each; the model has PyTorch's threads."""
    dtype = DTYPES[arguments.precision]
    model = load_backbone(arguments.backbone, arguments.weights).module
    model = model.to(dtype=dtype, memory_format=torch.channels_last)
    loader = DataLoader(
        Images(arguments.images, transforms(arguments), reader),
        batch_size=arguments.batch_size,
        num_workers=workers,
        prefetch_factor=4,
    )
    columns: dict[str, list[Any]] = {"path": [], "label": [], "confidence": []}
    began = 0.0
    for paths, pixels in loader:
        began = began or time.perf_counter()
        logits = model(pixels.to(dtype=dtype, memory_format=torch.channels_last))
        confidence, label = logits.float().softmax(1).max(1)
        columns["path"] += paths
        columns["label"] += label.tolist()
        columns["confidence"] += confidence.tolist()
    pq.write_table(pa.table(columns), output)
    images = len(columns["path"])
    return {"images": images, "images_per_s": images / (time.perf_counter() - began)}


if __name__ == "__main__":
    compare(
        __doc__,
        {
            f"{reader}, {workers} workers": partial(run_peer, reader=reader, workers=workers)
            for reader in READERS
            for workers in sorted({1, os.cpu_count() or 1})
        },
    )
