"""The CUDA path against the CPU's: pixels, DCT, labels, and nothing mixed up under load.

Selected by `-m gpu` alone (`make gpu-check`), and then never skipped: without a device they fail.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoding import plain, scipy_dct, screened
from jpegs import refused

from afd_model.backbones import PACKAGED
from jobs.benchmarking.corpus import make_corpus
from jobs.model import load_model
from jobs.settings import LabelSettings
from pipeline.decode import DecodeOptions, Decoder
from pipeline.label_shard import label_shard
from pipeline.pairs.decode_training import PairDecoder
from pipeline.pairs.pair_plan import DegradationMix, training_plan
from pipeline.records import Shard, Status
from pipeline.screening.screen import Limits
from pipeline.sources import list_images
from pipeline.stage_clock import StageClock

pytestmark = pytest.mark.gpu

DEVICE: Any = "cuda"
IMAGES = 1000
DECODED = 400  # of them, where all pixels are kept

# Grey levels of 255. NVIDIA's decoder rounds its IDCT and its chroma otherwise than libjpeg; both
# are within T.81's and T.83's accuracy, one level at a sample before colour is converted.
MEAN_PIXEL_ERROR, PIXEL_ERROR_OF_999_IN_1000 = 0.5, 4.0
# The DCT is orthonormal: it hands errors on as they are. Its own rounding is far smaller.
RMS_DCT_ERROR, DCT_ROUNDING = 1.0, 0.01
EQUAL_LABELS = 0.995
# A window's mean; mirrored or in other colours it would be 8 to 70 levels away, at half the quality
# up to 12. DALI's own compression on CUDA does not interpolate chroma, as libjpeg does, and may
# round what is near half a quantum to the other side: in NumPy, its steps are up to 5.5 levels away
# and 1.1 in the mean of all windows.
CLEAN_ERROR, DEGRADED_ERROR, MEAN_DEGRADED_ERROR = 2.0, 7.0, 2.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "images"
    make_corpus(folder, IMAGES, seed=0)
    return folder


def files_of(corpus: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(corpus.iterdir())[:DECODED]]


def decoder_on(device: Any, **options: Any) -> Decoder:
    return Decoder(plain(256, 224), DecodeOptions(torch.device(device), num_threads=4, **options))


def decoded(decoder: Decoder, files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels, uint8 (N, 3, 224, 224), and DCT, float32 (N, 192, 28, 28), in the files' order.

    Copied to the host as the predictor's results are: before the next batch is asked for.
    """
    pixels = np.zeros((len(files), 3, 224, 224), np.uint8)
    dct = np.full((len(files), 192, 28, 28), np.nan, np.float32)
    for batch in decoder.decode(screened(files), StageClock()):
        rows = [image.row for image in batch.images]
        pixels[rows] = (batch.pixels.float() * 255).round().to(torch.uint8).cpu().numpy()
        dct[rows] = batch.dct.float().cpu().numpy()
    assert not np.isnan(dct).any()  # every image came
    return pixels, dct


def test_pixels_and_dct_are_the_cpus_within_bounds(corpus: Path) -> None:
    files = files_of(corpus)
    slow_pixels, slow_dct = decoded(decoder_on("cpu"), files)
    fast_pixels, fast_dct = decoded(decoder_on(DEVICE, batch_size=64), files)
    error = np.abs(slow_pixels.astype(np.int16) - fast_pixels)
    assert error.mean() <= MEAN_PIXEL_ERROR
    assert np.quantile(error, 0.999) <= PIXEL_ERROR_OF_999_IN_1000
    assert error.mean((1, 2, 3)).max() <= 4 * MEAN_PIXEL_ERROR  # no single image is another
    assert np.sqrt(np.mean((slow_dct - fast_dct) ** 2)) <= RMS_DCT_ERROR


def test_the_dct_is_that_of_the_devices_own_pixels(corpus: Path) -> None:
    pixels, dct = decoded(decoder_on(DEVICE, batch_size=64), files_of(corpus)[:50])
    for levels, found in zip(pixels, dct, strict=True):
        expected = scipy_dct(levels.transpose(1, 2, 0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=DCT_ROUNDING)


@pytest.mark.parametrize("bad", refused(), ids=["named", "unnamed"])
def test_a_bad_image_costs_no_other(corpus: Path, bad: bytes) -> None:
    files = files_of(corpus)[:100]
    files[10] = files[63] = files[99] = bad
    images = screened(files)
    decoder = decoder_on(DEVICE, batch_size=32)
    rows = {i.row for batch in decoder.decode(images, StageClock()) for i in batch.images}
    rejected = {i.row for i in images if i.status == Status.REJECTED}
    assert rejected <= {10, 63, 99}  # the device may make something of what libjpeg refuses
    assert rows == set(range(100)) - rejected


def pairs_on(device: Any, corpus: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of clean and degraded windows, uint8 (N, 128, 128, 3) each, all kinds of them."""
    images = screened(files_of(corpus)[:48])
    mix = DegradationMix(
        recoloured_share=0.5, upside_down_share=0.3, reduced_share=0.5, thumbnail_share=0.35
    )
    plans = [
        training_plan(np.random.default_rng(i.row), i.size or (0, 0), mix, crop=224) for i in images
    ]
    decoder = PairDecoder(
        plain(144, 128),
        DecodeOptions(torch.device(device), batch_size=48, num_threads=4),
        max_compressions=mix.max_compressions,
        varied=True,
    )
    for _ in range(2):  # DALI's buffers are in use from the second on
        clean, degraded, kept = decoder.decode(images, plans)
    assert kept == list(range(48))
    return clean.cpu().numpy(), degraded.cpu().numpy()


def test_training_pairs_are_the_cpus_within_bounds(corpus: Path) -> None:
    pairs = zip(pairs_on("cpu", corpus), pairs_on(DEVICE, corpus), strict=True)
    clean, degraded = (np.abs(a.astype(np.int16) - b).mean((1, 2, 3)) for a, b in pairs)
    assert clean.max() <= CLEAN_ERROR
    assert degraded.max() <= DEGRADED_ERROR
    assert degraded.mean() <= MEAN_DEGRADED_ERROR


def labels_on(device: Any, precision: Any, corpus: Path) -> np.ndarray:
    """(N,) labels with the ImageNet weights that a package carries."""
    settings = LabelSettings(
        input=str(corpus), output="unused", backbone=PACKAGED, device=device, precision=precision
    )
    model = load_model(settings, num_threads=4)
    found = label_shard(
        Shard(0, tuple(list_images(str(corpus)))),
        decoder=model.decoder,
        predict=model.predictor,
        class_names=model.class_names,
        limits=Limits(),
    )
    assert found.counts["ok"] == IMAGES
    return found.table["label"].to_numpy()


def test_labels_are_those_of_fp32_on_a_cpu(corpus: Path) -> None:
    slow = labels_on("cpu", "fp32", corpus)
    fast = labels_on(DEVICE, "auto", corpus)
    assert len(set(slow.tolist())) > 10  # the classes are told apart
    assert np.mean(slow == fast) >= EQUAL_LABELS


def test_nothing_is_mixed_up_under_load(corpus: Path) -> None:
    """The same batches with the device idle, and with its memory and its cores in use."""
    files = files_of(corpus)
    options = {"batch_size": 64, "prefetch_batches": 4}
    quiet_pixels, quiet_dct = decoded(decoder_on(DEVICE, **options), files)
    busy = decoder_on(DEVICE, **options)
    with load():
        for _ in range(5):
            pixels, dct = decoded(busy, files)
            # Which unit of the device decodes an image may change, and with it the last digit.
            error = np.abs(pixels.astype(np.int16) - quiet_pixels).mean((1, 2, 3))
            assert error.max() <= MEAN_PIXEL_ERROR
            assert np.sqrt(np.mean((dct - quiet_dct) ** 2, axis=(1, 2, 3)).max()) <= RMS_DCT_ERROR


@contextmanager
def load() -> Iterator[None]:
    """Matrix products, copies and fresh memory on a stream of another thread."""
    stop, started = threading.Event(), threading.Event()

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            matrix = torch.rand(4096, 4096, device="cuda", dtype=torch.float16)
            host = torch.empty(4096, 4096, dtype=torch.float16, pin_memory=True)
            while not stop.is_set():
                host.copy_(matrix @ matrix, non_blocking=True)
                torch.rand(64, 2**20, device="cuda")
                torch.cuda.current_stream().synchronize()
                started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(60)
        yield
    finally:
        stop.set()
        thread.join()
