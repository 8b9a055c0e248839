"""Batch norms folded into the convolutions before them, where that changes nothing."""

import pytest
import torch
from torch import nn

from afd_model.backbones import load_backbone
from afd_model.inference.batch_norm_folding import fold_batch_norms


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "timm:tf_efficientnet_lite0"]
)
def test_folding_is_exact(name: str) -> None:
    module = load_backbone(name, "none").module
    torch.manual_seed(0)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    image = torch.randn(2, 3, 96, 96)
    expected = module(image)
    assert fold_batch_norms(module) >= len(norms) // 3
    difference = (module(image) - expected).abs().max()
    assert difference <= 1e-4 * expected.abs().max()


class ReadsTwice(nn.Module):
    """The convolution's output is used beside the batch norm: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        nn.init.constant_(self.bn.running_var, 4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.bn(y) + y


class SeesTF32(nn.Conv2d):
    """Rounds as cuDNN does where it may: to eleven bits."""

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if torch.backends.cudnn.allow_tf32:
            x, weight = (tensor.to(torch.float16).float() for tensor in (x, weight))
        return super()._conv_forward(x, weight, bias)


def test_it_is_compared_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "afd_model.inference.batch_norm_folding._is_convolution", lambda m: isinstance(m, nn.Conv2d)
    )
    torch.manual_seed(0)
    model = nn.Sequential(SeesTF32(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten()).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        assert fold_batch_norms(model) == 1
        assert torch.backends.cudnn.allow_tf32


class NormedTwice(nn.Module):
    """Two batch norms read the convolution's output: it would be folded with both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        nn.init.constant_(self.first.running_var, 4.0)
        nn.init.constant_(self.second.running_var, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.first(y) + self.second(y)


@pytest.mark.parametrize("kind", [ReadsTwice, NormedTwice])
def test_folding_is_undone_where_it_would_be_wrong(kind: type[nn.Module]) -> None:
    model = kind().eval()
    image = torch.randn(1, 3, 16, 16)
    expected = model(image)
    assert fold_batch_norms(model) == 0
    assert torch.equal(model(image), expected)
