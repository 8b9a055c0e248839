"""What the code does with CUDA tensors, on any machine: by PyTorch's fake tensors.

They have a device, a dtype, a shape and strides, but no numbers. An operation on tensors of two
devices raises, and so does one that reads a number, or that is for the CPU alone. What they cannot
tell: whether the numbers are right, and whether an index lies on the device of what it indexes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from decoding import plain, screened
from jpegs import encode, photo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from trainers import OPTIONS, make_trainer

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.flip_model import FLIP_FEATURES, FlipModel
from afd_model.inference.predictor import Predictor
from afd_model.training.agreement import Agreement
from afd_model.training.flip_fit import flip_samples
from afd_model.training.losses import LossWeights
from pipeline import decode
from pipeline.decode import DecodeOptions, Decoder
from pipeline.pairs import training_data
from pipeline.pairs.pair_plan import DegradationMix
from pipeline.pairs.training_data import PairLoader
from pipeline.records import EncodedImage
from pipeline.sources import list_images
from pipeline.stage_clock import StageClock

CUDA = torch.device("cuda", 0)
SIDE, IMAGES = 64, 5
GEOMETRY = plain(72, SIDE)
OPTIONS_ON_CUDA = DecodeOptions(device=CUDA, batch_size=8, dtype=torch.float16)
_COUNT = len(FLIP_FEATURES)
FLIP = FlipModel(0.1, (0.5,) * _COUNT, (0.0,) * _COUNT, (1.0,) * _COUNT)


def fake_tensors() -> FakeTensorMode:
    """Within it every new tensor is fake, and real ones are taken for fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def on_cuda(module: nn.Module) -> None:
    """Put fake CUDA tensors in the place of a module's tensors, of the same strides."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = torch.empty_like(parameter, device=CUDA)
            setattr(part, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(buffer, device=CUDA))


def windows(count: int) -> Tensor:
    """As DALI gives them on CUDA: (count, SIDE, SIDE, 3) uint8."""
    return torch.empty(count, SIDE, SIDE, 3, dtype=torch.uint8, device=CUDA)


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


class Dali:
    """In place of a DALI pipeline, which needs a device to be built: takes batches, gives any."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def build(self) -> None: ...
    def feed_input(self, name: str, values: list[np.ndarray]) -> None: ...
    def schedule_run(self) -> None: ...
    def release_outputs(self) -> None: ...
    def share_outputs(self) -> list[None]:
        return [None]


@pytest.fixture
def make_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[DecodeOptions], Decoder]:
    monkeypatch.setattr(decode, "_graph", Dali)
    monkeypatch.setattr(Decoder, "_windows", lambda self, pictures, count: windows(count))

    def make(options: DecodeOptions) -> Decoder:
        decoder = Decoder(GEOMETRY, options)
        decoder._outputs_read = None  # an event of a stream
        return decoder

    return make


def classifier(name: str, size: Any) -> AFDClassifier:
    backbone = load_backbone(name, "none")
    config = config_for(backbone, size, corrected_stages=2) if size else None
    return AFDClassifier(backbone, AFDModule(config) if config else None)


@pytest.mark.parametrize(
    ("name", "size"), [(MINIATURE, None), (MINIATURE, "paper"), ("mobilenet_v3_small", "light")]
)
@pytest.mark.parametrize("precision", [torch.float16, torch.float32])
def test_from_decoded_windows_to_scores_all_is_on_the_device(
    make_decoder: Callable[[DecodeOptions], Decoder], name: str, size: Any, precision: torch.dtype
) -> None:
    meta = torch.device("meta")
    model = classifier(name, size)
    predictor = Predictor(model, device=meta, precision=precision, flip_model=FLIP, crop=SIDE)
    predictor.device = torch.device("cuda")
    images = screened([encode(photo(80, 110, k)) for k in range(IMAGES)])
    maps: list[bool] = []

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps.append(is_channels_last(output))

    for layer in predictor.model.backbone.modules():
        layer.register_forward_hook(look)
    with fake_tensors(), torch.inference_mode():
        on_cuda(predictor.model)
        on_cuda(cast(nn.Module, predictor.flip_scorer))
        decoder = make_decoder(replace(OPTIONS_ON_CUDA, dtype=precision, dct=size is not None))
        (batch,) = decoder.decode(images, StageClock())
        scores = predictor._packed(batch.pixels, batch.dct, batch.file_facts)
    assert (batch.pixels.device, batch.pixels.dtype) == (CUDA, precision)
    assert (batch.dct.device, batch.dct.dtype) == (CUDA, torch.float32)
    assert is_channels_last(batch.pixels)
    assert is_channels_last(batch.dct)
    assert (scores.device, scores.dtype) == (CUDA, torch.float32)
    assert scores.shape == (IMAGES, 2 * 5 + 3)
    assert maps
    assert all(maps)


class Refusing:
    """In place of a decoder of pairs: keeps three images of a batch."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def decode(self, images: list[EncodedImage], plans: Any) -> Any:
        kept = list(range(len(images)))[:3]
        return windows(len(kept)), windows(len(kept)), kept


@pytest.fixture
def make_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], PairLoader]:
    """Of four images, in batches of four."""
    monkeypatch.setattr(training_data, "PairDecoder", Refusing)
    for k in range(4):
        (tmp_path / f"{k}.jpg").write_bytes(encode(photo(80, 110, k)))
    refs = list(list_images(str(tmp_path)))
    options = DecodeOptions(device=CUDA, batch_size=4)
    return lambda: PairLoader(refs, GEOMETRY, options, DegradationMix())


@pytest.fixture
def autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch switches autocast off where it finds no device."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("autocast")
def test_from_decoded_pairs_to_the_loss_all_is_on_the_device(
    make_loader: Callable[[], PairLoader], tmp_path: Path, precision: torch.dtype
) -> None:
    every = LossWeights(kl=1, root_kl=1, logits=1, embedding=1, features=1, stem_l1=1)
    options = replace(OPTIONS, precision=precision, stem_steps=1, losses=every)
    trainer = make_trainer(load_backbone(MINIATURE, "none"), tmp_path, options)
    trainer.device = torch.device("cuda")
    with fake_tensors():
        on_cuda(trainer.classifier)
        on_cuda(trainer.averaged_classifier)
        loader = make_loader()
        full, (partial,) = loader._batch_of(0), loader.held_out()
        for batch, count in ((full, 4), (partial, 3)):
            assert {tensor.device for tensor in batch} == {CUDA}
            assert {len(tensor) for tensor in batch} == {count}
            assert is_channels_last(batch.clean)
            assert is_channels_last(batch.degraded)
            assert is_channels_last(batch.dct)
        for trainer.step in (0, 1):  # the stem alone, then every term
            with trainer._autocast():
                loss, terms = trainer._loss(full.to(trainer.device))
            kinds = {(x.device, x.dtype) for x in (loss, *terms.values())}
            assert kinds == {(CUDA, torch.float32)}
        assert len(terms) == 6
        samples = flip_samples(trainer.averaged_classifier, partial)
        assert (samples.device, samples.shape) == (CUDA, (3, _COUNT + 1))
        counted = Agreement(trainer.device)
        with torch.no_grad(), trainer._autocast():
            direct = trainer.averaged_classifier.bare(partial.degraded).logits
            found = trainer.averaged_classifier.features(partial.degraded, partial.dct).logits
        assert found.dtype == precision
        counted.update(found, direct, direct, partial.compressed)


def test_tensors_of_two_devices_are_noticed() -> None:
    """What the tests above rely on."""
    with fake_tensors():
        there, here = torch.ones(2, device=CUDA), torch.ones(2)
        with pytest.raises(RuntimeError, match="device"):
            torch.addcmul(there, there, here)
        with pytest.raises(RuntimeError):
            there.numpy()
        assert (there + here.to(CUDA)).device == CUDA
