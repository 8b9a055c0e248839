"""The AFD-Module: identity when untrained, exact when fused, on any backbone."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from untrained import backbone

from afd_model.afd_config import AFDConfig, AFDSize
from afd_model.afd_module import AFDModule, reconfigured
from afd_model.afd_sizes import config_for
from afd_model.classifier import AFDClassifier
from afd_model.stage_correction import StagePlace

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
def config(name: str, size: AFDSize) -> AFDConfig:
    return config_for(backbone(name), size, corrected_stages=2)


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


def test_further_blocks_change_nothing_at_first() -> None:
    module = trained(AFDModule(replace(DEEP, size="paper", down_blocks=(), up_blocks=()))).double()
    features, dct = (x.double() for x in inputs())
    expected = module(features, dct)[0]
    deeper = reconfigured(module, DEEP).double()
    assert deeper.config == DEEP
    torch.testing.assert_close(deeper(features, dct)[0], expected, rtol=0, atol=1e-12)
    again = reconfigured(deeper, replace(DEEP, down_blocks=(2, 2)))
    torch.testing.assert_close(again.double()(features, dct)[0], expected, rtol=0, atol=1e-12)
    (deeper(features, dct)[0] - expected.detach() - 1).square().mean().backward()
    moving = [name for name, p in deeper.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("refine_down.1.1" in name for name in moving)


def test_fewer_blocks_keep_the_other_weights() -> None:
    deep = trained(AFDModule(DEEP))
    less = reconfigured(deep, replace(DEEP, size="paper", down_blocks=(0, 1), up_blocks=()))
    before, after = deep.state_dict(), less.state_dict()
    assert {key for key in before if "refine" in key} > {key for key in after if "refine" in key}
    assert any("refine_down.1.0" in key for key in after)
    for key, weight in after.items():
        assert weight.equal(before[key])


def test_corrections_of_stages_are_added_and_left_out() -> None:
    plain = trained(AFDModule(PAPER))
    config = replace(PAPER, stages=(StagePlace("layer4", 6, 32),), stage_width=2)
    corrected = reconfigured(plain, config)
    features = torch.randn(1, 6, 3, 3)
    assert corrected.stage_corrections[0](features).equal(features)
    again = reconfigured(trained(corrected), PAPER)
    for key, weight in again.state_dict().items():
        assert weight.equal(corrected.state_dict()[key])
    with pytest.raises(ValueError, match="only size, down_blocks, up_blocks"):
        reconfigured(corrected, replace(config, stage_width=3))


@pytest.mark.parametrize("other", [replace(DEEP, width=8), replace(DEEP, fdm="full")])
def test_nothing_but_the_parts_may_differ(other: AFDConfig) -> None:
    with pytest.raises(ValueError, match="only size, down_blocks, up_blocks"):
        reconfigured(AFDModule(DEEP), other)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, "light") for name in FAMILIES]
    + [(name, "paper") for name in ("resnet18", "convnext_tiny")]
    + [(name, "deep") for name in ("resnet18", "timm:tf_efficientnet_lite0")],
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
    stem_loss = (features.enhanced_features - features.stem_features.mean() - 1).square().mean()
    (stem_loss + features.logits.square().mean()).backward()
    assert all(p.grad is None for p in model.module.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in afd.parameters()
    }
    optimizer.step()

    assert not afd.is_identity
    assert all(correction.up.weight.any() for correction in afd.stage_corrections)
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        expected = classifier.features(pixels, dct)
        afd.fuse()
        found = classifier.features(pixels, dct)
    assert not torch.equal(expected.enhanced_features, expected.stem_features)
    torch.testing.assert_close(
        found.enhanced_features, expected.enhanced_features, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)
