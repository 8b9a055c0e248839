"""What the model sees: pixels against PIL and torchvision, the DCT against SciPy."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from decoding import decode_all, plain, scipy_dct, screened, torchvision_input
from jpegs import encode, every_kind, photo, png_chunk, save
from PIL import Image

from pipeline import decode
from pipeline.decode import DecodeOptions, Decoder
from pipeline.degrade import compress
from pipeline.pixels.geometry import Geometry
from pipeline.records import Status
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


def test_black_ink_darkens_by_up_to_a_level() -> None:
    """`every_kind` has no picture with any: Pillow makes CMYK of three inks."""
    rgb = photo(251, 333).astype(int)
    black = 255 - rgb.max(axis=2, keepdims=True)  # as much as there can be, as printers use it
    colours = 255 - rgb * 255 // np.maximum(255 - black, 1)
    inks = np.concatenate([colours, black], axis=2).astype(np.uint8)
    picture = Image.merge("CMYK", [Image.fromarray(inks[:, :, k]) for k in range(4)])
    data, geometry = save(picture, "JPEG", quality=92), plain(None, 224)
    (found,) = decode_all(Decoder(geometry, DecodeOptions()), screened([data])).values()
    difference = found.rgb - torchvision_input(data, geometry).astype(int)
    assert (difference.min(), difference.max()) == (-1, 0)
    assert difference.mean() > -0.5


def png_of_16_bits(samples: np.ndarray, colour_type: int) -> bytes:
    """uint16 (height, width, channels) -> a PNG; Pillow writes such only of gray."""
    height, width, _ = samples.shape
    header = struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("colour_type", "colours", "alpha"),
    [(0, 1, 0), (2, 3, 0), (4, 1, 1), (6, 3, 1)],
    ids=["gray", "colour", "gray alpha", "colour alpha"],
)
def test_sixteen_bits_are_rounded_to_eight(colour_type: int, colours: int, alpha: int) -> None:
    shape = (64, 64, colours + alpha)
    samples = np.random.default_rng(0).integers(0, 65_536, shape, dtype=np.uint16)
    data, geometry = png_of_16_bits(samples, colour_type), plain(None, 64)
    (found,) = decode_all(Decoder(geometry, DecodeOptions()), screened([data])).values()
    assert np.abs(found.rgb - samples[:, :, :colours] / 257).max() <= 0.5
    if colour_type:  # PIL drops the lower byte; of gray alone, it makes everything above 255 white
        assert np.abs(found.rgb - torchvision_input(data, geometry).astype(int)).max() <= 1


def test_a_bad_marker_costs_only_the_rows_up_to_the_next_restart() -> None:
    rgb = photo(256, 256)
    jpeg = encode(rgb, quality=90, restart_marker_rows=1)
    at = jpeg.index(b"\xff\xd3") - 40
    (bad,) = screened([jpeg[:at] + b"\xff\x9f" + jpeg[at + 2 :]])
    assert bad.status is Status.DAMAGED
    geometry = plain(None, 256)
    found = decode_all(Decoder(geometry, DecodeOptions(batch_size=1)), [bad])[0].rgb.astype(int)
    wrong_rows = np.flatnonzero(np.abs(found - torchvision_input(jpeg, geometry)).max((1, 2)) > 8)
    assert 0 < wrong_rows.size <= 18  # 16 of the interval, and the upsampling of its neighbours


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
    options = DecodeOptions(device=torch.device("cuda"))
    graph = decode._graph(plain(resize, 64), options, whole=False, **options.dali_arguments)
    (output,) = graph._graph_out
    assert output.device == "gpu"


@pytest.mark.parametrize(("device", "number"), [("cpu", None), ("cuda", 0), ("cuda:1", 1)])
def test_dali_is_told_the_devices_number(device: str, number: int | None) -> None:
    options = DecodeOptions(torch.device(device), batch_size=5, num_threads=3)
    expected = {"batch_size": 5, "num_threads": 3, "device_id": number}
    assert options.dali_arguments == expected
