"""The classifier in OpenVINO against itself in PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from untrained import backbone

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.device import has_native_bf16
from afd_model.inference.openvino_model import OpenVINOModel
from afd_model.inference.predictions import Predictions
from afd_model.inference.predictor import Predictor

CPU = torch.device("cpu")


def trained(model: Backbone) -> AFDModule:
    torch.manual_seed(0)
    module = AFDModule(config_for(model, "paper", corrected_stages=2))
    corrections = [correction.up for correction in module.stage_corrections]
    for layer in (module.fe_net.exit, *corrections):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.05)
    return module


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, 64, 64, generator=generator)
    return pixels, torch.randn(batch, 192, 8, 8, generator=generator) * 20


def predicted(classifier: AFDClassifier, batch: int, **changes: Any) -> Predictions:
    settings: dict[str, Any] = {"device": CPU, "precision": torch.float32, "crop": 64, **changes}
    return Predictor(classifier, **settings)(*inputs(batch))


@pytest.mark.parametrize(
    ("name", "with_afd", "num_images", "at_a_time"),
    [("mobilenet_v3_small", False, 1, 4), ("timm:tf_efficientnet_lite0", True, 32, 16)],
)
def test_rows_are_those_of_torch(
    name: str, with_afd: bool, num_images: int, at_a_time: int
) -> None:
    """num_images: that come at most. Compiled for more, blank ones would be computed beside them.

    at_a_time: what the engine takes, of which the batch is no multiple.
    """
    model = backbone(name)
    classifier = AFDClassifier(model, trained(model) if with_afd else None)
    predictor = Predictor(
        classifier,
        device=CPU,
        precision=torch.float32,
        crop=64,
        engine="openvino",
        num_images=num_images,
    )
    assert predictor._micro_batch == at_a_time
    expected = predicted(classifier, 21)
    found = predictor(*inputs(21))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.top_confidences, expected.top_confidences, rtol=1e-3)
    if with_afd:
        assert found.drift_angle_deg is not None
        assert expected.drift_angle_deg is not None
        np.testing.assert_allclose(found.drift_angle_deg, expected.drift_angle_deg, rtol=1e-3)
        np.testing.assert_allclose(found.drift_energy, expected.drift_energy, rtol=1e-3)
    else:
        assert found.drift_angle_deg is None


@pytest.mark.skipif(not has_native_bf16(), reason="this CPU has no bf16")
def test_bf16_is_as_near_to_float32_as_torchs_is() -> None:
    model = backbone("timm:tf_efficientnet_lite0")
    classifier = AFDClassifier(model, trained(model))
    exact = predicted(classifier, 24)
    torchs = predicted(classifier, 24, precision=torch.bfloat16)
    found = predicted(classifier, 24, precision=torch.bfloat16, engine="openvino")

    def error(of: Predictions, column: str) -> float:
        wanted = getattr(exact, column)
        return float(np.abs(getattr(of, column) / wanted - 1).mean())

    for column in ("confidences", "drift_angle_deg", "drift_energy"):
        assert 0 < error(found, column) <= 1.5 * error(torchs, column) + 1e-3, column


def test_bf16_is_refused_where_openvino_would_compute_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "afd_model.inference.openvino_model._capabilities", lambda _: ["FP32", "INT8"]
    )
    classifier = AFDClassifier(backbone("resnet18"), None)
    with pytest.raises(ValueError, match="has no bf16 on this CPU: use --precision fp32"):
        predicted(classifier, 1, precision=torch.bfloat16, engine="openvino")


def test_an_image_counts_alone_whatever_fills_the_batch() -> None:
    model = OpenVINOModel(AFDClassifier(backbone("resnet18"), None), num_images=4, side=64)
    pixels, dct = inputs(4)
    whole = model(pixels, dct).logits
    for count in (1, 3):
        logits = model(pixels[:count], dct[:count]).logits
        torch.testing.assert_close(logits, whole[:count], rtol=1e-5, atol=1e-6)


def test_it_is_for_cpus() -> None:
    classifier = AFDClassifier(backbone("resnet18"), None)
    with pytest.raises(ValueError, match="runs on a CPU, not on cuda: use --device cpu"):
        predicted(classifier, 1, device=torch.device("cuda"), engine="openvino")


def test_a_model_that_cannot_be_exported_is_refused_with_the_way_out() -> None:
    class Untraceable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.sum().item() > 0) if x.sum() > 0 else x

    classifier = AFDClassifier(backbone("resnet18"), None)
    classifier.backbone.relu = Untraceable()
    with pytest.raises(ValueError, match=r"OpenVINO cannot run this classifier: .*--engine torch"):
        OpenVINOModel(classifier, num_images=2, side=64)


def test_openvino_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afd_model.inference.openvino_model.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'afd-label\[openvino\]'"):
        OpenVINOModel(AFDClassifier(backbone("resnet18"), None), num_images=2, side=64)
