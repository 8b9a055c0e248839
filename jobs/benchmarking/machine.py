"""What was measured on: hardware, software and images; without names of hosts or folders."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from afd_model.inference.device import has_native_bf16
from jobs.machine import cpu_name, memory_bytes, num_cores
from jobs.run_record import versions
from pipeline.inputs.image_bytes import read_image
from pipeline.jpeg_scan import JpegFormatError, scan_jpeg
from pipeline.records import ImageRef


def machine_facts(device: torch.device) -> dict[str, Any]:
    """The hardware, and its load before the measurements."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": num_cores(),
        "native_bf16": has_native_bf16(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),  # of the last minute, processes
        "gpu": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
    return facts


def software() -> dict[str, str | None]:
    """Versions of the software that the figures depend on."""
    return {
        **versions(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }


def corpus_facts(refs: Sequence[ImageRef]) -> dict[str, Any]:
    """The number of images, their sizes and their JPEG qualities."""
    sizes, pixels, widths, heights, qualities = [], [], [], [], []
    for ref in refs:
        try:
            data = read_image(ref)
            header = scan_jpeg(data)
        except (OSError, JpegFormatError):  # counted only in `images`
            continue
        sizes.append(len(data))
        pixels.append(header.width * header.height)
        widths.append(header.width)
        heights.append(header.height)
        if header.quality is not None:
            qualities.append(header.quality)
    facts: dict[str, Any] = {"images": len(refs), "jpegs": len(sizes)}
    if sizes:
        facts |= {
            "mean_bytes": round(statistics.fmean(sizes)),
            "mean_pixels": round(statistics.fmean(pixels)),
            "median_pixels": statistics.median_low(pixels),
            "max_pixels": max(pixels),
            "median_width": statistics.median_low(widths),
            "median_height": statistics.median_low(heights),
        }
    if qualities:
        facts["median_quality"] = statistics.median_low(qualities)
    return facts
