"""What one image costs in each step outside the model, in milliseconds of one core.

    OMP_NUM_THREADS=1 python benchmarks/steps.py IMAGES [--rounds 5]

Processor time, so that other work on the machine disturbs little; medians and extremes over the
rounds. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pipeline.block_dct import BlockDct
from pipeline.decode import DecodeOptions, Decoder
from pipeline.geometry import Geometry
from pipeline.jpeg_scan import scan_jpeg
from pipeline.records import EncodedImage
from pipeline.screen import Limits, screen
from pipeline.stage_clock import StageClock

GEOMETRY = Geometry(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BATCH_SIZE = 32


def encoded(files: list[bytes], limits: Limits) -> Iterator[EncodedImage]:
    for row, data in enumerate(files):
        image = EncodedImage(row, data)
        screen(image, limits)
        yield image


def decode(files: list[bytes], decoder: Decoder) -> None:
    images = encoded(files, Limits(integrity="off"))
    decoded = sum(len(batch.images) for batch in decoder.decode(images, StageClock()))
    if decoded != len(files):
        raise RuntimeError(f"{decoded} of {len(files)} images were decoded")


def ms_per_image(step: Callable[[], object], images: int, rounds: int) -> dict[str, float]:
    step()
    costs = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        costs.append((time.process_time() - began) / images * 1e3)
    return {"median": statistics.median(costs), "min": min(costs), "max": max(costs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder of JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in Path(arguments.images).rglob("*") if path.is_file())
    files = [path.read_bytes() for path in paths]
    crops = torch.randint(0, 256, (BATCH_SIZE, 224, 224, 3), dtype=torch.uint8)
    dct = BlockDct(224)
    out = dct(crops)  # overwritten, as the decoder does
    decoder, decoder_with_mfcc = (
        Decoder(GEOMETRY, DecodeOptions(num_threads=1, dct_in_graph=in_graph))
        for in_graph in (False, True)
    )
    steps: dict[str, tuple[Callable[[], object], int]] = {
        "scan_jpeg": (lambda: [scan_jpeg(data) for data in files], len(files)),
        "screen, integrity off": (
            lambda: list(encoded(files, Limits(integrity="off"))),
            len(files),
        ),
        "screen, integrity fast": (lambda: list(encoded(files, Limits())), len(files)),
        "dct": (lambda: dct(crops, out=out), BATCH_SIZE),
        "decode, resize, normalise, dct": (lambda: decode(files, decoder), len(files)),
        "the same, dct by mfcc": (lambda: decode(files, decoder_with_mfcc), len(files)),
    }
    costs = {}
    for name, (step, images) in steps.items():
        costs[name] = ms_per_image(step, images, arguments.rounds)
        print(f"{name:<40}{costs[name]['median']:9.4f} ms")
    print(json.dumps({"images": len(files), "ms_of_one_core_per_image": costs}))


if __name__ == "__main__":
    main()
