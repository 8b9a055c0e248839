"""A picture and its clean original as the model sees them: made here, or found."""

from pathlib import Path

import numpy as np
import pytest
import torch
from decoding import decode_all, grey_levels, plain, screened
from jpegs import encode, photo, refused, save

from pipeline.decode import Decoder
from pipeline.degrade import compress
from pipeline.pairs.picture_pairs import PairReader
from pipeline.pairs.recompress import open_rgb
from pipeline.records import ImageRef, Status
from pipeline.screening.screen import Limits

CLEAN = encode(photo(80, 110), quality=95)
GEOMETRY = plain(64, 64)


def written(path: Path, data: bytes) -> ImageRef:
    path.write_bytes(data)
    return ImageRef(uri=str(path))


def seen(decoder: Decoder, data: bytes) -> np.ndarray:
    return decode_all(decoder, screened([data]))[0].rgb


def shown(pixels: torch.Tensor | None) -> np.ndarray:
    assert pixels is not None
    assert len(pixels) == 1
    return grey_levels(pixels[0].numpy())


def test_an_image_alone_has_no_original(tmp_path: Path, small_decoder: Decoder) -> None:
    pair = PairReader(small_decoder, GEOMETRY, Limits()).read(written(tmp_path / "a.jpg", CLEAN))
    assert pair.clean_pixels is None
    np.testing.assert_array_equal(shown(pair.pixels), seen(small_decoder, CLEAN))
    assert pair.image.header is not None
    assert pair.image.header.quality == 95


def test_at_a_quality_the_image_is_the_original(tmp_path: Path, small_decoder: Decoder) -> None:
    reader = PairReader(small_decoder, GEOMETRY, Limits(), quality=10)
    pair = reader.read(written(tmp_path / "a.jpg", CLEAN))
    made = compress(open_rgb(CLEAN), 10)
    np.testing.assert_array_equal(shown(pair.pixels), seen(small_decoder, made))
    np.testing.assert_array_equal(shown(pair.clean_pixels), seen(small_decoder, CLEAN))
    assert pair.image.header is not None
    assert (pair.image.header.quality, pair.image.num_bytes) == (10, len(made))


def test_a_twin_is_the_original(tmp_path: Path, small_decoder: Decoder) -> None:
    twin = written(tmp_path / "a.png", save(photo(80, 110), "PNG"))
    reader = PairReader(small_decoder, GEOMETRY, Limits(), twin_of=lambda _: twin)
    pair = reader.read(written(tmp_path / "a.jpg", CLEAN))
    np.testing.assert_array_equal(shown(pair.pixels), seen(small_decoder, CLEAN))
    png = seen(small_decoder, save(photo(80, 110), "PNG"))
    np.testing.assert_array_equal(shown(pair.clean_pixels), png)


def test_a_damaged_image_is_read_and_says_so(tmp_path: Path, small_decoder: Decoder) -> None:
    ref = written(tmp_path / "a.jpg", CLEAN[:-400])
    pair = PairReader(small_decoder, GEOMETRY, Limits()).read(ref)
    assert pair.image.status is Status.DAMAGED
    with pytest.raises(ValueError, match="no clean original: "):
        PairReader(small_decoder, GEOMETRY, Limits(), quality=10).read(ref)


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        (encode(photo(80, 100)), "it has 110x80 pixels, its clean twin '.*' 100x80"),
        (CLEAN[:-400], "its clean twin '.*': truncated"),
        (b"<html>", "its clean twin '.*': not a JPEG, PNG or WebP: the content is html"),
    ],
)
def test_a_twin_that_cannot_be_one(
    tmp_path: Path, small_decoder: Decoder, twin: bytes, message: str
) -> None:
    found = written(tmp_path / "twin", twin)
    reader = PairReader(small_decoder, GEOMETRY, Limits(), twin_of=lambda _: found)
    with pytest.raises(ValueError, match=message):
        reader.read(written(tmp_path / "a.jpg", CLEAN))


@pytest.mark.parametrize("quality", [None, 10])
def test_what_is_no_image_is_refused(
    tmp_path: Path, small_decoder: Decoder, quality: int | None
) -> None:
    reader = PairReader(small_decoder, GEOMETRY, Limits(), quality=quality)
    with pytest.raises(ValueError, match="the content is html"):
        reader.read(written(tmp_path / "a.jpg", b"<html>"))
    for data in refused():
        with pytest.raises(ValueError, match="cannot be decoded: "):
            reader.read(written(tmp_path / "a.jpg", data))
    with pytest.raises(ValueError, match="No such file"):
        reader.read(ImageRef(uri=str(tmp_path / "gone.jpg")))
    with pytest.raises(ValueError, match="over --max-pixels 100"):
        PairReader(small_decoder, GEOMETRY, Limits(100), quality=quality).read(
            written(tmp_path / "b.jpg", CLEAN)
        )
