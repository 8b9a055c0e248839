"""How many images at a time, for backbones with small maps and with large ones."""

import pytest
import torch

from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.micro_batches import MicroBatchSizes, micro_batch_sizes


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# By hand: MobileNetV3-Small's largest map is 72 x 56 x 56 numbers and its stem's 16 x 112 x 112;
# EfficientNet-Lite0's 96 x 112 x 112 and 32 x 112 x 112; ResNet-18's 64 x 112 x 112.
@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("mobilenet_v3_small", torch.bfloat16, MicroBatchSizes(32, 16)),
        ("mobilenet_v3_small", torch.float32, MicroBatchSizes(16, 8)),
        ("timm:tf_efficientnet_lite0", torch.bfloat16, MicroBatchSizes(8, 8)),
        ("timm:tf_efficientnet_lite0", torch.float32, MicroBatchSizes(4, 4)),
        ("resnet18", torch.bfloat16, MicroBatchSizes(8, 4)),
    ],
)
def test_small_maps_go_together(
    name: str, precision: torch.dtype, expected: MicroBatchSizes
) -> None:
    model = AFDClassifier(load_backbone(name, "none"), None)
    assert micro_batch_sizes(model, 224, precision) == expected


def test_smaller_pictures_and_more_threads_take_more() -> None:
    model = AFDClassifier(load_backbone("resnet18", "none"), None)
    assert micro_batch_sizes(model, 112, torch.bfloat16) == MicroBatchSizes(32, 16)
    torch.set_num_threads(8)
    assert micro_batch_sizes(model, 224, torch.bfloat16) == MicroBatchSizes(32, 16)


def test_a_backbone_that_looks_at_its_input_is_measured_too() -> None:
    class Looks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.mean().item() > 0 else -x

    model = AFDClassifier(load_backbone("resnet18", "none"), None)
    model.backbone.maxpool = Looks()
    assert micro_batch_sizes(model, 112, torch.bfloat16) == MicroBatchSizes(32, 16)
    assert not any(layer._forward_hooks for layer in model.modules())
