"""Settings become a decoder and a classifier that fit each other."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from decoding import screened
from jpegs import encode, photo
from torch import nn

from afd_model.afd_config import AFDConfig
from afd_model.backbones import load_backbone
from afd_model.checkpoint import CheckpointFacts
from afd_model.inference.device import has_native_bf16
from afd_model.inference.predictor import Engine, Predictor
from jobs import model
from jobs.model import _FASTEST, _default_batch_size, _preferred_engine, load_model
from jobs.run_record import MODEL_FACTS
from jobs.settings import LabelSettings
from pipeline.decode import DecodeOptions, Decoder
from pipeline.pixels.geometry import Geometry
from pipeline.stage_clock import StageClock


def settings(**changes: object) -> LabelSettings:
    values = {
        "input": "in",
        "output": "out",
        "backbone": "mobilenet_v3_small",
        "weights": "none",
        "device": "cpu",
        "precision": "fp32",
        **changes,
    }
    return LabelSettings(**values)  # type: ignore[arg-type]


def test_the_facts_say_what_decides_the_labels() -> None:
    found = load_model(settings(), num_threads=1)
    assert found.facts == {
        "backbone": "mobilenet_v3_small",
        "weights": "none",
        "weights_sha256": None,
        "stem_layer": "features.0",
        "afd": "none",
        "afd_sha256": None,
        "class_names_sha256": None,
    }
    assert {*found.facts, "flip_model"} == {*MODEL_FACTS}
    assert found.host == {"device": "cpu", "precision": "float32", "engine": "torch"}
    assert found.predictor.model.afd is None  # an untrained one is there only if it is asked for
    assert load_model(settings(afd="none"), num_threads=1).facts["afd"] == "none"
    untrained = load_model(settings(afd="untrained"), num_threads=1)
    assert untrained.predictor.model.afd is not None
    assert untrained.facts["afd"] == "untrained"


def test_an_edited_file_of_class_names_is_another_fact(tmp_path: Path) -> None:
    """Else a continued run would give one label two names."""
    file = tmp_path / "names.txt"
    found = []
    for first in ("cat", "dog", "cat"):
        file.write_text("\n".join([first, *map(str, range(999))]))
        loaded = load_model(settings(backbone=MINIATURE, class_names=str(file)), num_threads=1)
        found.append(loaded.facts["class_names_sha256"])
    assert found[0] == found[2] != found[1]


def test_without_a_module_a_crop_is_the_backbones_own() -> None:
    """Blocks of 8 pixels do not fill the 106 of TinyNet-E."""
    name = "timm:tinynet_e"
    torch.manual_seed(0)
    loaded = load_model(settings(backbone=name), num_threads=1)
    [batch] = loaded.decoder.decode(screened([encode(photo(150, 200))]), StageClock())
    assert batch.pixels.shape == (1, 3, 106, 106)
    found = loaded.predictor(batch.pixels, batch.dct)
    torch.manual_seed(0)
    with torch.no_grad():
        logits = load_backbone(name, "none").module(batch.pixels)
    expected = logits.softmax(dim=1).topk(5).values.numpy()
    np.testing.assert_allclose(found.top_confidences, expected, rtol=1e-4)
    blocks = load_model(settings(backbone=name, afd="untrained"), num_threads=1).decoder
    [batch] = blocks.decode(screened([encode(photo(150, 200))]), StageClock())
    assert batch.pixels.shape == (1, 3, 104, 104)
    assert batch.dct.shape == (1, 192, 13, 13)


@pytest.mark.usefixtures("one_thread")
def test_the_decoder_is_given_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[DecodeOptions] = []

    class Noted(Decoder):
        def __init__(self, geometry: Geometry, options: DecodeOptions) -> None:
            given.append(options)
            super().__init__(geometry, options)

    monkeypatch.setattr(model, "Decoder", Noted)
    decoding: dict[str, Any] = {"batch_size": 3, "prefetch_batches": 5, "hw_decoder_load": 0.25}
    load_model(settings(backbone=MINIATURE, afd="none", **decoding), num_threads=2)
    assert given == [DecodeOptions(num_threads=2, dtype=torch.float32, dct=False, **decoding)]
    assert torch.get_num_threads() == 2


def test_a_batch_that_memory_does_not_hold_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"--batch-size 100000000000 does not fit .*smaller one"):
        load_model(settings(batch_size=100_000_000_000), num_threads=1)


class MixingDtypes(nn.Module):
    """A layer whose weight is no parameter, and so stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = (torch.eye(1000),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight[0]


def test_a_model_that_does_not_run_in_a_precision_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = load_backbone("squeezenet1_1", "none")
    backbone.module.classifier.append(nn.Sequential(nn.Flatten(), MixingDtypes()))
    monkeypatch.setattr(model, "backbone_of", lambda _: backbone)
    changes = {"backbone": "squeezenet1_1", "crop": 64, "resize": 64}
    with pytest.raises(ValueError, match=r"does not run in bfloat16 .*--precision fp32"):
        load_model(settings(precision="bf16", **changes), num_threads=1)
    assert load_model(settings(**changes), num_threads=1).host["precision"] == "float32"


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("no memory"), torch.AcceleratorError("CUDA error: no kernel")],
)
def test_a_device_that_fails_is_not_the_precisions_fault(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(Predictor, "__call__", failing)
    with pytest.raises(type(failure), match=str(failure)):
        load_model(settings(precision="bf16"), num_threads=1)


def test_a_checkpoint_whose_flip_model_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = CheckpointFacts(
        AFDConfig(16, 2), "x", None, "y", has_other_flip_model=True, path="a.st"
    )
    monkeypatch.setattr(model, "resolve_afd", lambda spec, backbone: (None, other))
    found = load_model(settings(afd="a.st"), num_threads=1)
    assert "flip_probability is null" in (found.predictor.notice or "")
    # So that no release that could run it began what this one continues.
    assert found.facts["flip_model"] == "not run"


def test_openvino_is_given_what_the_settings_make_of_the_preset() -> None:
    loaded = load_model(settings(engine="openvino", precision="auto", crop=64), num_threads=1)
    precision = "bfloat16" if has_native_bf16() else "float32"
    assert loaded.host == {"device": "cpu", "precision": precision, "engine": "openvino"}
    found = loaded.predictor(torch.rand(3, 3, 64, 64), torch.rand(3, 192, 8, 8))
    assert found.labels.shape == (3,)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    "failure", [ValueError("no equal of a layer"), torch.OutOfMemoryError("no memory")]
)
def test_a_long_job_does_without_the_fastest_engine_where_it_fails(
    failure: Exception, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor is CUDA's alone: what asks for it is run here with a class that refuses."""
    fastest, from_images = _FASTEST[device]
    asked: list[str] = []

    class Refusing(Predictor):
        def __init__(self, *args: Any, engine: Engine, **options: Any) -> None:
            asked.append(engine)
            if engine == fastest:
                raise failure
            super().__init__(*args, engine=engine, **options)

    monkeypatch.setattr(model, "Predictor", Refusing)
    monkeypatch.setattr(model, "_FASTEST", {"cpu": (fastest, from_images)})
    found = load_model(settings(), num_threads=1, images_to_label=from_images)
    assert asked == [fastest, "torch"]
    assert found.host["engine"] == "torch"
    name = {"inductor": "Inductor", "openvino": "OpenVINO"}[fastest]
    assert found.predictor.notice == f"labelling without {name}, more slowly: {failure}"


@pytest.mark.parametrize(
    ("gib", "expected"), [(4, 1), (8, 32), (16, 128), (24, 256), (40, 256), (80, 256)]
)
def test_batches_of_four_workers_fit_on_a_gpu(
    gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert _default_batch_size(torch.device("cuda")) == expected
    assert _default_batch_size(torch.device("cpu")) == 32


def test_what_takes_longer_to_start_is_chosen_where_there_is_enough_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert _preferred_engine(cuda, 25_000) == "inductor"
    assert _preferred_engine(cuda, 24_999) == "torch"
    assert _preferred_engine(cuda, None) == "torch"
    assert _preferred_engine(cpu, 10_000) == "openvino"
    assert _preferred_engine(cpu, 9_999) == "torch"
    small = settings(crop=64)
    assert load_model(small, num_threads=1, images_to_label=10_000).host["engine"] == "openvino"
    monkeypatch.setattr(model, "find_spec", lambda name: None)  # as without the extra
    assert load_model(small, num_threads=1, images_to_label=10**9).host["engine"] == "torch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 100, "afd": "untrained"}, "crop 100 is not a multiple of 8"),
        ({"resize": 128}, "resize 128 is smaller than crop 224"),
        ({"precision": "fp16"}, "'fp16' needs a CUDA device"),
        ({"stem_layer": "features.99"}, r"features\.99"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(settings(**changes), num_threads=1)


@pytest.mark.parametrize("failure", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_INITIALIZED"])
def test_a_gpu_without_memory_is_not_the_precisions_fault(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError(f"cuBLAS error: {failure} when calling `cublasCreate(handle)`")

    monkeypatch.setattr(Predictor, "__call__", failing)
    with pytest.raises(RuntimeError, match=failure):
        load_model(settings(precision="bf16"), num_threads=1)


def test_a_model_whose_numbers_exceed_its_precision_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = load_backbone(MINIATURE, "none")
    head = backbone.module.get_classifier()
    monkeypatch.setattr(model, "backbone_of", lambda _: backbone)
    with torch.no_grad():
        head.weight.fill_(1e38)
    with pytest.raises(
        ValueError, match=r"^timm:test_resnet: in bfloat16 the .* 1 of 1 images .* --precision fp32"
    ):
        load_model(settings(precision="bf16"), num_threads=1)
    with torch.no_grad():
        head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"in float32 .* are not numbers: check the weights"):
        load_model(settings(precision="fp32"), num_threads=1)
