"""The AFD-Module: identity when untrained, exact when fused, within its budget, on any backbone."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from afd_model.afd_module import (
    AFDConfig,
    AFDModule,
    AFDSize,
    config_for,
    config_from_dict,
    config_to_dict,
    count_macs,
    count_parameters,
    module_macs,
    with_blocks_of,
)
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier

FAMILIES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "densenet121",
    "timm:repvgg_a2",
    "timm:tf_efficientnet_lite0",
)
PAPER = AFDConfig(stem_channels=8, stem_stride=2, width=4, fde_hidden=8)
LIGHT = replace(
    PAPER, size="light", reduction=4, depth=1, levels=0, fdm="full", fdm_on="bottleneck"
)
DEEP = replace(PAPER, size="deep", down_blocks=(1, 2), up_blocks=(1, 0), fdm="full+channel")
LOG = replace(LIGHT, reduction=2, fdm="full+channel", dct_input="log")


@cache
def backbone(name: str) -> Backbone:
    return load_backbone(name, "none")


@cache
def config(name: str, size: AFDSize) -> AFDConfig:
    return config_for(backbone(name), size)


def trained(module: AFDModule) -> AFDModule:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def inputs(channels: int = 8, side: int = 64, stride: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    grid = -(-side // stride)
    features = torch.randn(2, channels, grid, grid, generator=generator).relu()
    return features, torch.randn(2, 192, side // 8, side // 8, generator=generator) * 20


@pytest.mark.parametrize("shape", [PAPER, LIGHT, LOG, DEEP])
def test_an_untrained_module_is_the_identity(shape: AFDConfig) -> None:
    module = AFDModule(shape)
    features, dct = inputs()
    assert module.is_identity
    assert torch.equal(module(features, dct)[0], features)
    module.fuse()
    assert module.is_identity
    assert torch.equal(module(features, dct)[0], features)


@pytest.mark.parametrize("fdm", ["channel", "spatial", "both", "full", "full+channel"])
@pytest.mark.parametrize("shape", [PAPER, LIGHT, LOG, DEEP])
@pytest.mark.parametrize("side", [64, 72, 75])
def test_fusion_is_exact_on_any_grid(shape: AFDConfig, fdm: str, side: int) -> None:
    module = trained(AFDModule(replace(shape, fdm=fdm))).double()
    features, dct = (x.double() for x in inputs(side=side))
    expected, expected_fdm = module(features, dct)
    assert not torch.allclose(expected, features)
    assert module.fuse().fuse() is module
    found, fdm_found = module(features, dct)
    assert (found - expected).abs().max() <= 1e-10
    torch.testing.assert_close(fdm_found, expected_fdm)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [PAPER, LIGHT, LOG, DEEP])
def test_fusion_in_half_precision(shape: AFDConfig, dtype: torch.dtype) -> None:
    module = trained(AFDModule(shape))
    features, dct = (x.to(dtype) for x in inputs())
    expected = module(features.float(), dct.float())[0].detach()
    found = module.fuse().to(dtype)(features, dct)[0].float().detach()
    assert (found - expected).norm() <= 1e-2 * expected.norm()


def test_enhanced_features_stay_in_the_activations_range() -> None:
    module = trained(AFDModule(replace(LIGHT, output_min=0.0, output_max=6.0)))
    features, dct = inputs()
    enhanced = module(features * 3, dct)[0]
    assert enhanced.min() == 0
    assert enhanced.max() == 6


def test_the_fdm_gates_the_correction() -> None:
    for shape in (PAPER, LIGHT):
        module = trained(AFDModule(replace(shape, fdm="channel")))
        features, dct = inputs()
        torch.nn.init.zeros_(module.fde_net.pooled.weight)
        torch.nn.init.constant_(module.fde_net.pooled.bias, -100)
        torch.testing.assert_close(module(features, dct)[0], features)


@pytest.mark.parametrize("size", ["paper", "deep"])
def test_the_budget_on_resnet50(size: AFDSize) -> None:
    within = config("resnet50", size)
    assert count_parameters(AFDModule(within).fuse()) <= 200_000
    assert 100e6 < module_macs(within, 224) <= 600e6


def test_further_blocks_change_nothing_at_first() -> None:
    module = trained(AFDModule(replace(DEEP, size="paper", down_blocks=(), up_blocks=()))).double()
    features, dct = (x.double() for x in inputs())
    expected = module(features, dct)[0]
    deeper = with_blocks_of(module, DEEP).double()
    assert deeper.config == DEEP
    torch.testing.assert_close(deeper(features, dct)[0], expected, rtol=0, atol=1e-12)
    again = with_blocks_of(deeper, replace(DEEP, down_blocks=(2, 2)))
    torch.testing.assert_close(again.double()(features, dct)[0], expected, rtol=0, atol=1e-12)
    (deeper(features, dct)[0] - expected.detach() - 1).square().mean().backward()
    moving = [name for name, p in deeper.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("refine_down.1.1" in name for name in moving)


def test_fewer_blocks_keep_the_other_weights() -> None:
    deep = trained(AFDModule(DEEP))
    less = with_blocks_of(deep, replace(DEEP, size="paper", down_blocks=(0, 1), up_blocks=()))
    before, after = deep.state_dict(), less.state_dict()
    assert {key for key in before if "refine" in key} > {key for key in after if "refine" in key}
    assert any("refine_down.1.0" in key for key in after)
    for key, weight in after.items():
        assert weight.equal(before[key])


@pytest.mark.parametrize("other", [replace(DEEP, width=8), replace(DEEP, fdm="full")])
def test_nothing_but_the_blocks_may_differ(other: AFDConfig) -> None:
    with pytest.raises(ValueError, match="in more than its blocks"):
        with_blocks_of(AFDModule(DEEP), other)


def test_counting_against_the_arithmetic() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    assert count_parameters(layer) == 3 * 4 * 9 + 4
    assert count_macs(layer, torch.zeros(1, 3, 10, 10)) == 3 * 4 * 9 * 100


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet50"])
def test_light_costs_a_tenth_of_the_backbone(name: str) -> None:
    model = backbone(name)
    crop = model.preprocessing.crop
    whole = count_macs(model.module, torch.zeros(1, 3, crop, crop))
    assert module_macs(config(name, "light"), crop) <= 0.1 * whole


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, "light") for name in FAMILIES]
    + [(name, "paper") for name in FAMILIES[1::4]]
    + [(name, "deep") for name in FAMILIES[1::8]],
)
def test_forwards_trains_one_step_and_fuses(name: str, size: AFDSize) -> None:
    model = backbone(name)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    afd = AFDModule(config(name, size))
    classifier = AFDClassifier(model, afd).train()
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    dct = torch.randn(1, 192, 8, 8, generator=generator) * 20
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.1)

    features = classifier.features(pixels, dct)
    torch.testing.assert_close(features.logits, model.module(pixels), rtol=1e-3, atol=1e-3)
    (features.after - features.before.mean() - 1).square().mean().backward()
    assert all(p.grad is None for p in model.module.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in afd.parameters()
    }
    optimizer.step()

    assert not afd.is_identity
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        expected = classifier.features(pixels, dct)
        afd.fuse()
        found = classifier.features(pixels, dct)
    assert not torch.equal(expected.after, expected.before)
    torch.testing.assert_close(found.after, expected.after, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)


def test_configuration_survives_json() -> None:
    for shape in (LIGHT, DEEP):
        assert config_from_dict(json.loads(json.dumps(config_to_dict(shape)))) == shape


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_channels": 8, "stem_stride": 2, "breadth": 3}, "unknown fields: breadth"),
        ({"stem_channels": 8}, "incomplete"),
        ({"stem_channels": 8, "stem_stride": 2, "fdm": "depth"}, "unknown FDM kind 'depth'"),
        ({"stem_channels": 8, "stem_stride": 2, "width": 0}, "width is at least 1, not 0"),
        (
            {"stem_channels": 8, "stem_stride": 2, "down_blocks": [1]},
            r"down_blocks says how many for each of 2 levels, not \(1,\)",
        ),
        ({"stem_channels": 8, "stem_stride": 2, "size": "huge"}, "unknown AFD size 'huge'"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_dict(fields)
