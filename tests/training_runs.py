"""Small runs of the train job, and what they leave behind."""

import json
from pathlib import Path

import torch
from jpegs import encode, photo

from jobs.train import main
from jobs.training.log import LOG

STEPS = 20
FLAGS = [
    *("--backbone", "mobilenet_v3_small", "--weights", "none", "--crop", "32", "--batch-size", "4"),
    *("--max-steps", str(STEPS), "--warmup-steps", "2", "--held-out-images", "5"),
    *("--validate-every-steps", "10", "--save-every-steps", "3", "--log-every-steps", "1"),
    *("--flip-passes", "1", "--read-threads", "1", "--device", "cpu", "--precision", "fp32"),
]


def make_collection(folder: Path, *, side: int = 60, quality: int = 92) -> Path:
    """16 small photographs, a little larger than `side` x `side`."""
    folder.mkdir(exist_ok=True)
    for k in range(16):
        image = photo(side + k, side + 30 - k, k)
        (folder / f"{k}.jpg").write_bytes(encode(image, quality=quality))
    return folder


def train(collection: Path | str, output: Path, *flags: str) -> int:
    threads = torch.get_num_threads()
    try:
        return main([str(collection), "--output", str(output), *FLAGS, *flags])
    finally:
        torch.set_num_threads(threads)


def records(output: Path, kind: str) -> list[dict[str, float]]:
    lines = (output / LOG).read_text().splitlines() if (output / LOG).exists() else []
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
