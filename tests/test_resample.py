"""The CPU's resampling against its definition, Pillow and DALI's operator."""

import numpy as np
import pytest
import torch
from decoding import plain
from jpegs import photo
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from pipeline.decode import resample_window
from pipeline.pixels import resample
from pipeline.pixels.geometry import Geometry, Interpolation, crop_window
from pipeline.pixels.resample import cpu_resample

SIZES = [(251, 333), (333, 250), (97, 131), (256, 256), (900, 1201), (1, 1), (1, 50), (700, 3)]
FILTERS: list[Interpolation] = ["bilinear", "bicubic"]


def resampled(pictures: list[np.ndarray], geometry: Geometry) -> np.ndarray:
    made = cpu_resample(geometry)
    assert made is not None
    out = torch.full((len(pictures), geometry.crop, geometry.crop, 3), 77, dtype=torch.uint8)
    made(pictures, out)
    return out.numpy()


def weights(start: float, end: float, samples: int, places: int, cubic: bool) -> np.ndarray:
    """(places, samples), by Pillow's documented filters: triangle, or Keys' with a = -1/2."""
    scale = (end - start) / places
    widened, support = max(scale, 1.0), 2.0 if cubic else 1.0
    centres = start + (np.arange(places)[:, None] + 0.5) * scale
    away = np.abs(np.arange(samples) + 0.5 - centres) / widened
    near = (1.5 * away - 2.5) * away**2 + 1 if cubic else 1 - away
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    found = np.where(away < 1, near, np.where(away < support, far, 0))
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 64), (40, 8)])
def test_is_the_filters_sum(resize: int, crop: int, interpolation: Interpolation) -> None:
    geometry = plain(resize, crop, interpolation)
    pictures = [photo(*size, seed=sum(size)) for size in SIZES]
    for picture, found in zip(pictures, resampled(pictures, geometry), strict=True):
        height, width, _ = picture.shape
        top, left, bottom, right = crop_window((height, width), geometry).astype(float)
        cubic = interpolation == "bicubic"
        by_row = weights(top, bottom, height, crop, cubic)
        by_column = weights(left, right, width, crop, cubic)
        exact = np.einsum("yh,hwc,xw->yxc", by_row, picture.astype(float), by_column, optimize=True)
        assert np.abs(found - exact.clip(0, 255)).max() <= 0.5 + 1e-3


def test_is_pillows_within_its_rounding() -> None:
    """Pillow rounds to a grey level between the two directions too."""
    geometry = plain(256, 224)
    pictures = [photo(*size) for size in SIZES[:5]]
    for picture, found in zip(pictures, resampled(pictures, geometry), strict=True):
        top, left, bottom, right = map(float, crop_window(picture.shape[:2], geometry))
        whole = Image.fromarray(picture)
        box = (left, top, right, bottom)
        expected = np.asarray(whole.resize((224, 224), Image.Resampling.BILINEAR, box)).astype(int)
        difference = np.abs(found - expected)[1:-1, 1:-1]  # a box's own border is the picture's
        assert difference.mean() <= 0.3
        assert difference.max() <= 1


@pytest.mark.parametrize("interpolation", FILTERS)
def test_is_dalis(interpolation: Interpolation) -> None:
    """The same model sees the same pixels on a GPU, where DALI resamples."""
    geometry = plain(256, 224, interpolation)

    @pipeline_def(batch_size=len(SIZES), num_threads=1, device_id=None)
    def graph() -> object:
        rgb = fn.external_source(name="rgb", dtype=types.UINT8, ndim=3)
        window = fn.external_source(name="window", dtype=types.FLOAT, ndim=1)
        return resample_window(rgb, window, geometry)

    pictures = [photo(*size, seed=1) for size in SIZES]
    pipeline = graph()
    pipeline.build()
    pipeline.feed_input("rgb", pictures)
    pipeline.feed_input("window", [crop_window(p.shape[:2], geometry) for p in pictures])
    (expected,) = pipeline.run()
    difference = np.abs(resampled(pictures, geometry) - expected.as_array().astype(int))
    assert difference.max() <= 1
    assert difference.mean() <= 0.005


def test_threads_and_other_pictures_change_nothing() -> None:
    geometry = plain(64, 64)
    pictures = [photo(*size) for size in SIZES]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = resampled(pictures, geometry)
    finally:
        torch.set_num_threads(threads)
    alone = [resampled([picture], geometry)[0] for picture in pictures]
    np.testing.assert_array_equal(found, np.stack(alone))


def test_none_where_it_cannot_or_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_resample(plain(None, 64)) is None
    monkeypatch.setattr(resample, "has_numba", lambda: False)
    assert cpu_resample(plain(64, 64)) is None
