"""Rounding to bf16: representable weights, and outputs nearer to the unrounded model's."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from afd_model.inference.rounding import keep_head_in_float32, pink_noise, round_weights


def network(head: type[nn.Linear] = nn.Linear) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()]
    for _ in range(6):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 1)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(16, 10)).eval()


def plainly_rounded(model: nn.Sequential, dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    model = copy.deepcopy(model)
    for parameter in model[:-1].parameters():
        parameter.data = parameter.data.to(dtype).float()
    return model


def pictures() -> Tensor:
    # Not the noise that the correction was computed on.
    generator = torch.Generator().manual_seed(7)
    return nn.functional.interpolate(torch.randn(8, 3, 6, 6, generator=generator), size=48)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_representable_and_outputs_nearer(dtype: torch.dtype) -> None:
    model = network()
    corrected = copy.deepcopy(model)
    round_weights(corrected, dtype, 48)
    for parameter in corrected[:-1].parameters():
        assert torch.equal(parameter, parameter.to(dtype).float())
    assert torch.equal(corrected[-1].weight, model[-1].weight)
    expected = model(pictures())
    plain = (plainly_rounded(model, dtype)(pictures()) - expected).square().mean()
    assert (corrected(pictures()) - expected).square().mean() < 0.5 * plain


def test_layers_without_a_bias_or_used_twice_are_only_rounded() -> None:
    torch.manual_seed(0)
    twice = nn.Conv2d(8, 8, 1)
    layers = [nn.Conv2d(3, 8, 3, bias=False), twice, nn.ReLU(), twice, nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4)).eval()
    round_weights(model, torch.bfloat16, 48)
    for layer in (model[0], twice):
        assert torch.equal(layer.weight, layer.weight.bfloat16().float())


class ChannelsLastMix(nn.Module):
    """A linear layer on (B, H, W, C), as in ConvNeXt and Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.mix(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def test_linear_layers_on_maps_are_rounded_by_channel() -> None:
    torch.manual_seed(0)
    stem, pool = nn.Conv2d(3, 16, 3, stride=2), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(stem, ChannelsLastMix(), pool, nn.Flatten(), nn.Linear(24, 10)).eval()
    corrected = copy.deepcopy(model)
    round_weights(corrected, torch.bfloat16, 48)
    weight = corrected[1].mix.weight
    assert torch.equal(weight, weight.bfloat16().float())
    plain = (plainly_rounded(model)(pictures()) - model(pictures())).abs().mean()
    assert (corrected(pictures()) - model(pictures())).abs().mean() < plain


def test_the_noise_is_the_same_everywhere_and_falls_with_frequency() -> None:
    noise = pink_noise(32)
    assert torch.equal(noise, pink_noise(32))
    spectrum = torch.fft.fft2(noise).abs().mean((0, 1))
    assert spectrum[0, 1] > 4 * spectrum[0, 8]


@pytest.mark.parametrize("head", [nn.Linear, timm.layers.Linear])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_computes_in_float32_and_is_not_rounded(
    dtype: torch.dtype, head: type[nn.Linear]
) -> None:
    model = network(head)
    exact = copy.deepcopy(model[-1])
    round_weights(model, dtype, 48)
    assert torch.equal(model[-1].weight, exact.weight)
    exact = copy.deepcopy(model[-1])
    keep_head_in_float32(model)
    model.to(dtype=dtype)
    assert model[0].weight.dtype == dtype
    assert model(pictures().to(dtype)).dtype == torch.float32
    for name, parameter in model[-1].linear.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name)), name
    keep_head_in_float32(nn.Sequential(nn.Conv2d(3, 4, 1)))
