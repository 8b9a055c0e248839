"""What a model is shown of an image under each condition."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jpegs import encode, photo, save

from pipeline.decode import DecodeOptions
from pipeline.degrade import FULL_IMAGE, IMAGENET_C
from pipeline.pairs import evaluate_images
from pipeline.pairs.evaluate_images import CLEAN, Condition, ImageEvaluator, MeasuredChunk
from pipeline.pairs.recompress import drawn_qualities
from pipeline.pixels.geometry import Geometry
from pipeline.screening.screen import Limits
from pipeline.sources import list_images

GEOMETRY = Geometry(72, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Mirror:
    """A model whose outcome is what it was given."""

    def clean_stem(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def measure(
        self, pixels: torch.Tensor, dct: torch.Tensor, clean_stem: Any, file_facts: torch.Tensor
    ) -> dict[str, Any]:
        return {"pixels": pixels, "clean": clean_stem, "facts": file_facts}


def measured(folder: Path, *conditions: Condition) -> MeasuredChunk:
    """Of the images of a folder, in one chunk."""
    refs = list(list_images(str(folder)))
    options = DecodeOptions(batch_size=4, num_threads=1, prefetch_batches=1)
    images = ImageEvaluator(
        Mirror(), GEOMETRY, options, conditions=conditions, seed=3, limits=Limits()
    )
    (chunk,) = images.measure(refs, [Path(ref.uri).name for ref in refs])
    return chunk


def test_the_flip_model_is_told_about_the_file(tmp_path: Path) -> None:
    """The last compression's quality (the protocol's own, where that comes later), and its size."""
    (tmp_path / "a.jpg").write_bytes(encode(photo(80, 110), quality=92))
    (tmp_path / "b.png").write_bytes(save(photo(90, 70, 1), "PNG"))
    once = [Condition(protocol, quality=10) for protocol in (FULL_IMAGE, IMAGENET_C)]
    often = [Condition(protocol, times=3) for protocol in (FULL_IMAGE, IMAGENET_C)]
    outcomes = measured(tmp_path, *once, *often).outcomes
    facts = {condition: outcome["facts"] for condition, outcome in outcomes.items()}
    found = {condition: of_files[:, 0].tolist() for condition, of_files in facts.items()}
    assert found[CLEAN][0] == 92
    assert math.isnan(found[CLEAN][1])
    last = [float(drawn_qualities(name, 3, 3)[-1]) for name in ("a.jpg", "b.png")]
    assert [found[c] for c in (*once, *often)] == [[10, 10], [85, 85], last, [85, 85]]
    enlarged = [0, pytest.approx(math.log2(72 / 70))]
    assert facts[CLEAN][:, 1].tolist() == enlarged
    assert [facts[c][:, 1].tolist() for c in once] == [enlarged, [0, 0]]  # the second, the window's


def test_an_image_that_only_the_decoder_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    """As a PNG without its end chunk, which Pillow opens."""
    (tmp_path / "a.jpg").write_bytes(encode(photo(80, 110)))
    (tmp_path / "b.png").write_bytes(save(photo(90, 70, 1), "PNG")[:-12])
    found = measured(tmp_path)
    assert found.indices == [0]
    assert found.left_out == [(1, "cannot be decoded: its data is damaged")]


def test_of_large_originals_few_are_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, height in enumerate((80, 90, 10, 20, 200)):
        (tmp_path / f"{number}.jpg").write_bytes(encode(photo(height, 100, number)))
    (tmp_path / "1.jpg").write_bytes(b"no image")
    refs = list(list_images(str(tmp_path)))
    images = ImageEvaluator(
        Mirror(), GEOMETRY, DecodeOptions(batch_size=8), conditions=(), seed=3, limits=Limits()
    )

    def chunks() -> list[tuple[list[int], list[int]]]:
        found = images.measure(refs, [ref.uri for ref in refs])
        return [(chunk.indices, [row for row, _ in chunk.left_out]) for chunk in found]

    assert chunks() == [([0, 2, 3, 4], [1])]
    monkeypatch.setattr(evaluate_images, "_MOST_PIXELS", 100 * 100)
    assert chunks() == [([0, 2], [1]), ([3], []), ([4], [])]
