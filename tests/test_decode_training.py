"""A picture's clean and compressed windows: the same one, changed and compressed as planned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jpegs import encode, photo, save
from PIL import Image

from pipeline.decode import DecodeOptions
from pipeline.degrade import degrade
from pipeline.pairs import decode_training
from pipeline.pairs.decode_training import PairDecoder
from pipeline.pairs.pair_plan import Colours, PairPlan, random_window
from pipeline.pairs.recompress import open_rgb
from pipeline.pixels.geometry import Geometry
from pipeline.records import EncodedImage, Status

SIDE = 64
GEOMETRY = Geometry(72, SIDE, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIONS = DecodeOptions(batch_size=4, num_threads=1, prefetch_batches=1)
FULL_SIZE = np.array([0, 0, SIDE, SIDE], np.float32)


def encoded(data: bytes, size: tuple[int, int]) -> EncodedImage:
    return EncodedImage(0, data, size=size)


@pytest.mark.parametrize("qualities", [(5,), (7,), (25,), (50,), (95,), (10, 85), (60, 12, 33)])
@pytest.mark.parametrize("shape", [(64, 64), (75, 131), (33, 40)])
def test_dalis_distortion_is_libjpeg_turbos_result(
    shape: tuple[int, int], qualities: tuple[int, ...]
) -> None:
    """On the window and on the whole picture, bit for bit (4:2:0, odd sizes too)."""
    jpeg = encode(photo(*shape), quality=95)
    rgb = open_rgb(jpeg)
    whole = np.array([0, 0, *shape], np.float32)
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=3)
    plans = [
        PairPlan(whole, full_qualities=qualities),
        PairPlan(whole, crop_qualities=qualities),
        PairPlan(whole),
    ]
    clean, degraded, kept = decoder.decode([encoded(jpeg, shape) for _ in plans], plans)
    assert kept == [0, 1, 2]
    np.testing.assert_array_equal(degraded[1], degrade(clean[1].numpy(), qualities))
    np.testing.assert_array_equal(degraded[2], clean[2])
    # Resampled at its own size, DALI gives the picture back, so the whole path can be compared.
    if shape == (SIDE, SIDE):
        np.testing.assert_array_equal(clean[0], rgb)
        np.testing.assert_array_equal(degraded[0], degrade(rgb, qualities))
    again = decoder.decode(
        [encoded(save(degrade(rgb, qualities), "PNG"), shape)], [PairPlan(whole)]
    )[0]
    np.testing.assert_array_equal(degraded[0], again[0])


def test_clean_and_degraded_show_the_same_window() -> None:
    """At quality 100 the two differ by rounding alone; moved or mirrored apart they would not."""
    jpeg, size = encode(photo(90, 140), quality=95), (90, 140)
    rng = np.random.default_rng(0)
    windows = [random_window(rng, size, 0.3) for _ in range(4)]
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=2)
    for where in ("full_qualities", "crop_qualities"):
        plans = [
            replace(PairPlan(w, mirrored=bool(k % 2)), **{where: (100,)})
            for k, w in enumerate(windows)
        ]
        clean, degraded, _ = decoder.decode([encoded(jpeg, size)] * 4, plans)
        difference = (clean.int() - degraded.int()).abs().float().mean((1, 2, 3))
        assert difference.max() < 3
        moved = (clean.int() - clean.roll(4, dims=2).int()).abs().float().mean((1, 2, 3))
        assert moved.min() > 2 * difference.max()
    plain = decoder.decode([encoded(jpeg, size)], [PairPlan(windows[1])])[0]
    mirrored = decoder.decode([encoded(jpeg, size)], [PairPlan(windows[1], mirrored=True)])[0]
    assert torch.equal(plain.flip(2), mirrored)


def test_pictures_are_changed_before_they_are_compressed() -> None:
    rgb = photo(SIDE, SIDE)
    png, size = save(rgb, "PNG"), (SIDE, SIDE)
    plans = [
        PairPlan(FULL_SIZE, full_qualities=(20,)),
        PairPlan(FULL_SIZE, full_qualities=(20,), upside_down=True),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(saturation=0.0)),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(brightness=0.5)),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(contrast=0.5)),
        PairPlan(FULL_SIZE, full_qualities=(20,), colours=Colours(hue_deg=180.0)),
    ]
    options = replace(OPTIONS, batch_size=len(plans))
    decoder = PairDecoder(GEOMETRY, options, max_compressions=1, varied=True)
    clean, degraded, _ = decoder.decode([encoded(png, size)] * len(plans), plans)
    np.testing.assert_array_equal(clean[0], rgb)  # what is not to be changed is not
    np.testing.assert_array_equal(clean[1], rgb[::-1])
    colourfulness = clean.int().amax(3) - clean.int().amin(3)
    assert colourfulness[0].float().mean() > 20
    assert colourfulness[2].max() <= 1
    lightness = clean.float().mean((1, 2, 3)).tolist()
    assert lightness[3] == pytest.approx(lightness[0] / 2, rel=0.02)
    np.testing.assert_allclose(clean[4], rgb / 2 + 64, atol=1)
    opposite = 2 * (rgb @ [0.299, 0.587, 0.114])[:, :, None] - rgb  # of the same luma
    np.testing.assert_allclose(clean[5], opposite.clip(0, 255), atol=2)
    for picture, compressed in zip(clean.numpy(), degraded.numpy(), strict=True):
        np.testing.assert_array_equal(compressed, degrade(picture, (20,)))


def test_a_picture_is_reduced_before_it_is_compressed() -> None:
    rgb = photo(3 * SIDE, 3 * SIDE)
    small = np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    plan = PairPlan(FULL_SIZE, full_qualities=(20,), reduced_to=(SIDE, SIDE))
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=1, varied=True)
    image = encoded(save(rgb, "PNG"), (3 * SIDE, 3 * SIDE))
    clean, degraded, _ = decoder.decode([image], [plan])
    difference = np.abs(clean[0].numpy().astype(int) - small)
    assert np.quantile(difference, 0.98) <= 2
    assert difference.mean() < 1
    np.testing.assert_array_equal(degraded[0], degrade(clean[0].numpy(), (20,)))


@pytest.mark.parametrize("varied", [False, True])
def test_the_graph_for_cuda_can_be_defined(varied: bool) -> None:
    """To be built it needs a device; that its operators take what they are given shows before."""
    options = replace(OPTIONS, device=torch.device("cuda"))
    graph = decode_training._graph(GEOMETRY, options, 3, varied=varied, **options.dali_arguments)
    outputs = graph._graph_out
    assert [output.device for output in outputs] == ["gpu", "gpu"]


def test_a_refused_image_costs_its_own_place_alone() -> None:
    jpeg, size = encode(photo(64, 64)), (64, 64)
    images = [encoded(jpeg, size) for _ in range(4)]
    images[2].data = jpeg[:300] + bytes(40) + b"\xff\xd9"
    images[3].data = b"not a picture at all"
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=2)
    _, _, kept = decoder.decode(images, [PairPlan(FULL_SIZE)] * 4)
    assert 3 not in kept
    assert sorted(kept)[:2] == [0, 1]
    assert images[3].status is Status.REJECTED
    assert images[0].status is Status.OK


def test_a_picture_that_no_jpeg_can_hold_costs_its_own_place_alone() -> None:
    """DALI's error for it would end the training."""
    jpeg, long = encode(photo(64, 64)), save(np.full((1, 65_501, 3), 90, np.uint8), "PNG")
    images = [encoded(jpeg, (64, 64)), encoded(long, (1, 65_501)), encoded(jpeg, (64, 64))]
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=2)
    plans = [PairPlan(FULL_SIZE, full_qualities=(20,))] * 3
    assert decoder.decode(images, plans)[2] == [0, 2]
    assert images[1].status is Status.REJECTED
    assert images[1].error == (
        "cannot be compressed: JPEG sides are at most 65500 pixels, got 65501x1"
    )


def test_dali_never_sees_a_header_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may kill the process, see `admit`."""
    jpeg, png = encode(photo(64, 64)), save(photo(64, 64), "PNG")
    images = [encoded(data, (64, 64)) for data in (jpeg, png[: len(png) // 2], jpeg)]
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=2)
    fed = []
    run = decoder._run
    monkeypatch.setattr(decoder, "_run", lambda *group: fed.append(group[0]) or run(*group))
    assert decoder.decode(images, [PairPlan(FULL_SIZE)] * 3)[2] == [0, 2]
    assert fed == [[images[0], images[2]]]
    assert images[1].status is Status.REJECTED


def test_a_decoder_that_refuses_everything_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a GPU does whose driver fails; training would go on without an image."""
    images = [encoded(encode(photo(64, 64)), (64, 64)) for _ in range(2)]
    decoder = PairDecoder(GEOMETRY, OPTIONS, max_compressions=2)
    taken = decoder._pipeline.share_outputs

    def failing() -> object:
        taken()
        decoder._pipeline.release_outputs()
        raise RuntimeError("Failed to decode sample #0 :")

    with monkeypatch.context() as patch:
        patch.setattr(decoder._pipeline, "share_outputs", failing)
        with pytest.raises(RuntimeError, match="refuses a known-good image too"):
            decoder.decode(images, [PairPlan(FULL_SIZE)] * 2)
    assert all(image.status is Status.OK for image in images)
    assert decoder.decode(images, [PairPlan(FULL_SIZE)] * 2)[2] == [0, 1]
