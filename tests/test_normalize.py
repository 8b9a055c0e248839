"""Normalised pixels against the formula in float64."""

import pytest
import torch

from pipeline.pixels import normalize
from pipeline.pixels.geometry import Geometry
from pipeline.pixels.normalize import Normalize

IMAGENET = Geometry(None, 40, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Geometry(None, 64, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def every_level(images: int, side: int) -> torch.Tensor:
    levels = torch.arange(images * side * side * 3) % 256
    return levels.to(torch.uint8).view(images, side, side, 3)


def expected(rgb: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    mean, std = (torch.tensor(values).double() for values in (geometry.mean, geometry.std))
    return ((rgb.double() / 255 - mean) / std).permute(0, 3, 1, 2)


@pytest.fixture(autouse=True, params=["compiled", "PyTorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setattr(normalize, "has_numba", lambda: False)


@pytest.mark.parametrize("geometry", [IMAGENET, PLAIN])
@pytest.mark.parametrize("images", [1, 5])
def test_float32_is_the_formula(geometry: Geometry, images: int) -> None:
    rgb = every_level(images, geometry.crop)
    found = Normalize(geometry, torch.float32)(rgb)
    assert found.shape == (images, 3, geometry.crop, geometry.crop)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected(rgb, geometry), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_shorter_float_is_rounded_once(dtype: torch.dtype) -> None:
    rgb = every_level(3, IMAGENET.crop)
    found = Normalize(IMAGENET, dtype)(rgb)
    assert found.dtype == dtype
    exact = Normalize(IMAGENET, torch.float32)(rgb)
    assert torch.equal(found, exact.to(dtype))


def test_the_result_is_written_where_it_is_asked_for() -> None:
    rgb = every_level(3, IMAGENET.crop)
    buffer = torch.full((4, IMAGENET.crop, IMAGENET.crop, 3), 7.0)
    scale = Normalize(IMAGENET, torch.float32)
    found = scale(rgb, out=buffer[:3])
    assert found.data_ptr() == buffer.data_ptr()
    assert torch.equal(found, scale(rgb))
    assert (buffer[3] == 7).all()


def test_a_view_of_larger_pictures_is_taken() -> None:
    wide = every_level(2, 2 * IMAGENET.crop)
    part = wide[:, : IMAGENET.crop, : IMAGENET.crop]
    scale = Normalize(IMAGENET, torch.float32)
    assert torch.equal(scale(part), scale(part.contiguous()))
