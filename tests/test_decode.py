"""What the model sees: pixels against PIL and torchvision, DCT against scipy, nobody's row lost."""

import io
from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from decoding import Decoded, decode_all, plain, scipy_dct, screened, torchvision_input
from jpegs import encode, every_kind, photo, refused, save
from PIL import Image

from pipeline import decode
from pipeline.decode import DecodeOptions, Decoder
from pipeline.degrade import compress
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage, Status
from pipeline.stage_clock import StageClock

MAX_MEAN_DIFFERENCE = 0.3  # grey levels
DCT_TOLERANCE = 1e-3  # on the 0..255 scale


def corpus() -> dict[str, bytes]:
    """name -> a sound image: every coding in one shape, then every other shape."""
    rgb = photo(251, 333)
    with_alpha = Image.fromarray(np.dstack([rgb, rgb[:, :, 0]]))
    files = every_kind(rgb) | {
        "4:4:0": compress(rgb, 60, "4:4:0"),
        "4:1:1": compress(rgb, 60, "4:1:1"),
        "PNG": save(rgb, "PNG"),
        "PNG alpha": save(with_alpha, "PNG"),
        "PNG palette": save(Image.fromarray(rgb).convert("P"), "PNG"),
        "WebP": save(rgb, "WEBP", quality=80),
        "WebP alpha": save(with_alpha, "WEBP", quality=80),
    }
    for height, width in ((333, 250), (97, 131), (131, 97), (224, 224), (225, 224), (900, 1201)):
        files[f"{height}x{width}"] = encode(photo(height, width, seed=height))
        files[f"{height}x{width} 4:4:4"] = encode(photo(height, width), subsampling="4:4:4")
    for height, width in ((1, 1), (1, 50), (50, 1), (8, 300), (300, 8)):
        files[f"{height}x{width}"] = encode(photo(height, width))
    return files


CORPUS = corpus()


def differences(geometry: Geometry) -> dict[str, np.ndarray]:
    """name -> |decoder - torchvision| in grey levels, (crop, crop, 3), for every image there is."""
    dct = geometry.crop % 8 == 0
    decoder = Decoder(geometry, DecodeOptions(batch_size=len(CORPUS), dct=dct))
    found = decode_all(decoder, screened(CORPUS.values()))
    assert sorted(found) == list(range(len(CORPUS)))
    return {
        name: np.abs(found[row].rgb - torchvision_input(data, geometry).astype(int))
        for row, (name, data) in enumerate(CORPUS.items())
    }


@pytest.fixture(params=["kernel", "DALI"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What resamples: DALI does on CUDA, and where Numba is not installed."""
    if request.param == "DALI":
        monkeypatch.setattr(decode, "cpu_resample", lambda geometry: None)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (342, 299)])
def test_bilinear_pixels_are_torchvisions(resize: int, crop: int) -> None:
    for name, difference in differences(plain(resize, crop)).items():
        assert difference.mean() <= MAX_MEAN_DIFFERENCE, name
        assert difference.max() <= 1, name


@pytest.mark.usefixtures("way")
def test_bicubic_pixels_are_torchvisions_on_average() -> None:
    for name, difference in differences(plain(256, 224, "bicubic")).items():
        assert difference.mean() <= MAX_MEAN_DIFFERENCE, name


def test_a_crop_may_reach_the_border(way: str) -> None:
    """Beyond the border DALI's filter repeats the last pixel, where PIL's ends."""
    for name, difference in differences(plain(64, 64)).items():
        assert difference.mean() <= MAX_MEAN_DIFFERENCE, name
        inner = difference[1:-1, 1:-1] if way == "DALI" else difference
        assert inner.max() <= 1, name


@pytest.mark.parametrize("crop", [224, 64])
def test_the_centre_crop_alone_is_exact(crop: int) -> None:
    """Larger images are cut, smaller ones stand on black."""
    for name, difference in differences(plain(None, crop)).items():
        assert difference.max() == 0, name


@pytest.mark.usefixtures("way")
def test_extreme_shapes() -> None:
    files = {f"{h}x{w}": encode(photo(h, w)) for h, w in ((1, 500), (8, 3000), (900, 3))}
    geometry = plain(256, 224)
    found = decode_all(Decoder(geometry, DecodeOptions(batch_size=3)), screened(files.values()))
    for row, data in enumerate(files.values()):
        difference = np.abs(found[row].rgb - torchvision_input(data, geometry).astype(int))
        assert difference.max() <= 1


def test_exif_orientation_is_left_alone() -> None:
    """Not a matter of tolerance: a turned picture would be another picture."""
    rgb = photo(100, 60)
    turned, as_is = encode(rgb, exif_orientation=6), encode(rgb)
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x0112] == 6
    decoder = Decoder(plain(None, 64), DecodeOptions(batch_size=2))
    found = decode_all(decoder, screened([turned, as_is]))
    np.testing.assert_array_equal(found[0].rgb, found[1].rgb)


@pytest.mark.parametrize(
    ("geometry", "batch_size"), [(plain(256, 224), 5), (plain(160, 160), 7), (plain(None, 64), 3)]
)
def test_dct_is_scipys_of_the_same_pixels(geometry: Geometry, batch_size: int) -> None:
    kinds = ["baseline", "gray", "YCCK", "1x50", "97x131"]
    files = [CORPUS[kind] for kind in kinds] + [save(noise(240), "PNG")]
    found = decode_all(Decoder(geometry, DecodeOptions(batch_size=batch_size)), screened(files))
    assert len(found) == len(files)
    for image in found.values():
        assert image.dct.shape == (192, geometry.crop // 8, geometry.crop // 8)
        assert image.dct.dtype == np.float32
        assert np.abs(image.dct - scipy_dct(image.rgb)).max() <= DCT_TOLERANCE


def test_without_a_dct_the_pixels_are_the_same() -> None:
    images = [CORPUS[kind] for kind in ("baseline", "gray", "97x131")]
    geometry = plain(160, 160)
    expected = decode_all(Decoder(geometry, DecodeOptions(batch_size=2)), screened(images))
    found = decode_all(Decoder(geometry, DecodeOptions(batch_size=2, dct=False)), screened(images))
    for row, image in expected.items():
        np.testing.assert_array_equal(found[row].rgb, image.rgb)
        assert found[row].dct.shape == (0, 20, 20)


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_a_crop_that_blocks_do_not_fill_has_no_dct() -> None:
    with pytest.raises(ValueError, match="crop 60 is not a multiple of 8"):
        Decoder(plain(64, 60), DecodeOptions(dct=True))


def test_pixels_are_normalised_in_the_asked_for_precision() -> None:
    data = save(noise(64), "PNG")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    geometry = Geometry(None, 64, "bilinear", mean, std)
    expected = (noise(64) / 255 - mean) / std
    for dtype, tolerance in (
        (torch.float32, 1e-5),
        (torch.float16, 2e-3),
        (torch.bfloat16, 1e-2),
    ):
        decoder = Decoder(geometry, DecodeOptions(batch_size=1, dtype=dtype))
        (batch,) = decoder.decode(screened([data]), StageClock())
        assert batch.pixels.dtype == dtype
        assert batch.dct.dtype == torch.float32
        assert batch.pixels.shape == (1, 3, 64, 64)
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
        found = batch.pixels[0].permute(1, 2, 0).float().numpy()
        np.testing.assert_allclose(found, expected, atol=tolerance)
        del batch


@pytest.mark.parametrize("resize", [64, None])
def test_the_graph_for_cuda_can_be_defined(resize: int | None) -> None:
    """To be built it needs a device; that its operators take what they are given shows before."""
    options = DecodeOptions(device="cuda")
    place = {"batch_size": 4, "num_threads": 1, "device_id": 0}
    (output,) = decode._graph(plain(resize, 64), options, whole=False, **place)._graph_out
    assert output.device == "gpu"


# From here on: which images come out, and that a bad one costs nobody else anything.

BAD = refused()
GOOD = [encode(photo(60 + seed, 80, seed)) for seed in range(10)]


def assert_same(found: dict[int, Decoded], expected: dict[int, Decoded]) -> None:
    assert sorted(found) == sorted(expected)
    for row, image in found.items():
        np.testing.assert_array_equal(image.rgb, expected[row].rgb)
        np.testing.assert_array_equal(image.dct, expected[row].dct)


@pytest.mark.parametrize("bad", BAD, ids=["named", "unnamed"])
@pytest.mark.parametrize(
    "at", [(0,), (3,), (4,), (9,), (0, 1, 2, 3), (0, 3, 6, 9), (8, 9)], ids=str
)
def test_a_bad_image_costs_and_changes_no_other(
    small_decoder: Decoder, bad: bytes, at: tuple[int, ...]
) -> None:
    files = [bad if row in at else data for row, data in enumerate(GOOD)]
    images = screened(files)
    expected = decode_all(small_decoder, screened(GOOD))
    found = decode_all(small_decoder, images)
    assert_same(found, {row: image for row, image in expected.items() if row not in at})
    for image in images:
        assert image.status == (Status.REJECTED if image.row in at else Status.OK)
        assert (image.error is not None) == (image.row in at)
        assert image.data is None  # the encoded bytes are freed either way


@pytest.mark.parametrize("at", [range(17, 32), range(16), [31]], ids=["last", "first", "one"])
def test_dali_never_sees_a_header_that_it_refuses(
    at: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch this large it reads the headers in two threads, and may kill the process."""
    decoder = Decoder(plain(64, 64), DecodeOptions(batch_size=32, num_threads=1))
    taken, refused_batches = decoder._pipeline.share_outputs, 0

    def counting() -> object:
        nonlocal refused_batches
        try:
            return taken()
        except RuntimeError:
            refused_batches += 1
            raise

    monkeypatch.setattr(decoder._pipeline, "share_outputs", counting)
    unnamed = BAD[1]
    images = screened(unnamed if row in at else GOOD[row % len(GOOD)] for row in range(32))
    assert sorted(decode_all(decoder, images)) == [row for row in range(32) if row not in at]
    assert {image.row for image in images if image.status == Status.REJECTED} == set(at)
    assert refused_batches == 0


def test_both_kinds_of_refusal_in_one_batch(small_decoder: Decoder) -> None:
    for order in permutations([BAD[0], BAD[1], GOOD[0], GOOD[1]]):
        images = screened(order)
        found = decode_all(small_decoder, images)
        good = [row for row, data in enumerate(order) if data in GOOD]
        assert sorted(found) == good
        assert [i.row for i in images if i.status == Status.OK] == good


def test_nothing_but_bad_images(small_decoder: Decoder) -> None:
    images = screened(BAD * 5)
    assert decode_all(small_decoder, images) == {}
    assert {image.status for image in images} == {Status.REJECTED}
    assert decode_all(small_decoder, []) == {}
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_images_left_over_come_in_a_smaller_batch(small_decoder: Decoder, count: int) -> None:
    batches = [
        [image.row for image in batch.images]
        for batch in small_decoder.decode(screened(GOOD[:count]), StageClock())
    ]
    assert [row for batch in batches for row in batch] == list(range(count))
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_what_is_not_decodable_is_passed_over(small_decoder: Decoder) -> None:
    images = screened([b"", *GOOD[:5], b"<html>"])
    images[2].fail(Status.UNREADABLE, "gone")
    assert sorted(decode_all(small_decoder, images)) == [1, 3, 4, 5]
    assert images[2].status == Status.UNREADABLE


def test_a_consumer_that_stops_leaves_the_decoder_usable(small_decoder: Decoder) -> None:
    expected = decode_all(small_decoder, screened(GOOD[:3]))
    for batches_taken in (0, 1, 2):
        batches = small_decoder.decode(screened([*GOOD, BAD[0], *GOOD]), StageClock())
        for _ in range(batches_taken):
            next(batches)
        batches.close()
        assert_same(decode_all(small_decoder, screened(GOOD[:3])), expected)


def test_a_source_that_fails_leaves_the_decoder_usable(small_decoder: Decoder) -> None:
    def images() -> Iterator[EncodedImage]:
        yield from screened(GOOD)
        raise KeyError("the reader's own error")

    with pytest.raises(KeyError, match="the reader's own error"):
        decode_all(small_decoder, images())
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


def test_an_error_that_no_image_is_to_blame_for_is_raised(
    small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = small_decoder._pipeline
    taken = pipeline.share_outputs

    def failing() -> object:
        taken()
        pipeline.release_outputs()
        raise RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation: out of memory")

    images = screened(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "share_outputs", failing)
        with pytest.raises(RuntimeError, match="cudaErrorMemoryAllocation"):
            decode_all(small_decoder, images)
    assert all(image.status == Status.OK for image in images)
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


@pytest.mark.parametrize(
    "message", ["Failed to decode sample #0 :", "nvImageCodec failure: '#17'"], ids=["named", "17"]
)
@pytest.mark.parametrize("sound_batches", [0, 1, 2])
def test_a_decoder_that_refuses_everything_is_not_the_images_fault(
    small_decoder: Decoder, monkeypatch: pytest.MonkeyPatch, message: str, sound_batches: int
) -> None:
    """As a GPU does whose driver fails: DALI words it as it words a damaged picture."""
    pipeline = small_decoder._pipeline
    taken, calls = pipeline.share_outputs, 0

    def failing() -> object:
        nonlocal calls
        calls += 1
        if calls <= sound_batches:
            return taken()
        taken()
        pipeline.release_outputs()
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "share_outputs", failing)
        with pytest.raises(RuntimeError, match="refuses a known-good image too"):
            decode_all(small_decoder, screened(GOOD))
    assert len(decode_all(small_decoder, screened(GOOD))) == len(GOOD)


def test_batches_are_fed_ahead_but_not_all_at_once(small_decoder: Decoder) -> None:
    asked_for = 0

    def images() -> Iterator[EncodedImage]:
        nonlocal asked_for
        for image in screened(GOOD * 4):
            asked_for += 1
            yield image

    batches = small_decoder.decode(images(), StageClock())
    next(batches)
    assert 4 < asked_for <= 4 * 4  # one in use, two ahead, and the one being put together
    batches.close()
