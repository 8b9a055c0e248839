"""Checks that run something: the decoder on a JPEG, and the loading of the shipped weights."""

from __future__ import annotations

import numpy as np
import torch

from afd_model.checkpoint import SHIPPED, load_module
from jobs.diagnosis.check import Check
from jobs.diagnosis.packages import PACKAGE
from pipeline.decode import DecodeOptions, Decoder
from pipeline.degrade import RgbImage, compress, decompress
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage
from pipeline.screening.screen import Limits, screen
from pipeline.stage_clock import StageClock

_SIDE = 64  # pixels
_QUALITY = 75
_MEAN_ERROR_ON_CUDA = 0.5  # grey levels; NVIDIA's decoder rounds differently from libjpeg


def check_decoder() -> Check:
    """Compares the decoder's pixels of one JPEG with libjpeg-turbo's, on every device."""
    name, fix = "decoder self-test", "pip install --force-reinstall nvidia-dali-cuda130 turbojpeg"
    jpeg = compress(_picture(), _QUALITY)
    expected = decompress(jpeg).astype(np.int16)
    found = []
    for device in _devices():
        difference = np.abs(_decoded(jpeg, device) - expected)
        mean, most = difference.mean(), difference.max()
        if (mean > _MEAN_ERROR_ON_CUDA) if device == "cuda" else most:
            worst = f"{device}: differs from libjpeg-turbo by {mean:.2f} grey levels, up to {most}"
            return Check(name=name, state="wrong", found=worst, fix=fix)
        found.append(f"{device}: " + (f"within {mean:.2f} grey levels" if most else "exact"))
    return Check(name=name, state="ok", found=", ".join(found))


def check_shipped_weights() -> Check:
    """Loads every checkpoint of the package."""
    name = "shipped AFD weights"
    fix = f"in the source of {PACKAGE}: pip install --force-reinstall --no-deps ."
    paths = sorted(SHIPPED.glob("*.safetensors"))
    if not paths:
        return Check(name=name, state="missing", found=f"none in {SHIPPED}", fix=fix)
    try:
        backbones = [load_module(path)[1].backbone for path in paths]
    except ValueError as error:
        return Check(name=name, state="wrong", found=str(error), fix=fix)
    return Check(name=name, state="ok", found=f"for {', '.join(backbones)}")


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _picture() -> RgbImage:
    """uint8 (_SIDE, _SIDE, 3): gradients, edges and noise, the same on every call."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    slopes = np.stack([3 * rows, 2 * columns, rows + columns], axis=2)
    edges = 60 * (((rows // 20 + columns // 13) % 2)[:, :, None])
    picture = slopes + edges + rng.integers(0, 20, slopes.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _decoded(jpeg: bytes, device: str) -> np.ndarray:
    """int16 (_SIDE, _SIDE, 3): the model's input in grey levels."""
    plain = Geometry(None, _SIDE, "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    decoder = Decoder(plain, DecodeOptions(torch.device(device), batch_size=1))
    image = EncodedImage(0, jpeg)
    screen(image, Limits())
    for batch in decoder.decode([image], StageClock()):
        levels = batch.pixels[0].permute(1, 2, 0).float() * 255
        return levels.round().short().cpu().numpy()
    raise RuntimeError(f"the decoder refused an intact JPEG: {image.error}")
