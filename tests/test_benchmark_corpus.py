"""The benchmark's own images: ImageNet's sizes, every quality, natural content, repeatable."""

from pathlib import Path

import numpy as np
import pytest

from jobs.benchmarking.corpus import make_corpus, make_jpeg, natural_picture, random_size
from pipeline.jpeg_scan import scan_jpeg


def test_sizes_are_those_of_imagenet() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([random_size(rng) for _ in range(4000)])
    assert np.median(sizes, axis=0).tolist() == [375, 500]
    pixels = np.sort(sizes.prod(1))
    assert pixels[len(pixels) // 100] < 60_000
    assert pixels[-len(pixels) // 100] > 1_500_000
    assert sizes.max() <= 4000


def test_a_picture_larger_than_the_photographs_is_as_detailed_as_a_small_one() -> None:
    """Enlarging would leave little to code; mirror images keep the statistics."""

    def detail(height: int, width: int) -> float:
        pictures = [natural_picture(np.random.default_rng(n), height, width) for n in range(12)]
        assert all(picture.shape == (height, width, 3) for picture in pictures)
        return float(np.mean([np.abs(np.diff(p.astype(int), axis=1)).mean() for p in pictures]))

    assert detail(900, 1200) == pytest.approx(detail(240, 320), rel=0.2)


def test_qualities_reach_from_5_to_95() -> None:
    headers = [scan_jpeg(make_jpeg(np.random.default_rng([0, n]))) for n in range(60)]
    qualities = [header.quality for header in headers if header.quality is not None]
    assert len(qualities) == 60
    assert 5 <= min(qualities) < 15
    assert 85 < max(qualities) <= 95
    assert {header.subsampling for header in headers} >= {"4:2:0", "4:4:4"}
    assert any(header.progressive for header in headers)


def test_a_complete_folder_is_used_again_and_any_other_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    make_corpus(folder, 3, seed=1)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files) == 3
    (folder / min(files)).write_bytes(b"as it was")
    make_corpus(folder, 3, seed=1)
    assert (folder / min(files)).read_bytes() == b"as it was"
    for number, seed in ((4, 1), (3, 2)):
        with pytest.raises(ValueError, match=f"does not hold {number} images of seed {seed}"):
            make_corpus(folder, number, seed)
    make_corpus(tmp_path / "again", 3, seed=1)
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == files
    assert not list(tmp_path.glob("*.partial"))
