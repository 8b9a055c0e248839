"""Corrections behind the stem: where they sit, what they leave alone, how they are learnt."""

from dataclasses import replace

import pytest
import torch
from untrained import backbone

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.stage_correction import StageCorrection, StagePlace, last_stages


def module(model: Backbone, *, trained: bool) -> AFDModule:
    torch.manual_seed(0)
    config = config_for(model, "paper", corrected_stages=2)
    afd = AFDModule(replace(config, width=4, fde_hidden=8))
    if trained:
        for correction in afd.stage_corrections:
            torch.nn.init.normal_(correction.up.weight, std=0.3)
    return afd


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 64, 64, generator=generator)
    return pixels, torch.randn(3, 192, 8, 8, generator=generator) * 20


def test_it_is_a_narrow_residual_that_starts_as_the_identity() -> None:
    correction = StageCorrection(24, 8)
    features = torch.randn(2, 24, 7, 5)
    assert correction(features).equal(features)
    torch.nn.init.normal_(correction.up.weight)
    moved_by = (correction(features) - features).detach().permute(0, 2, 3, 1).reshape(-1, 24)
    assert torch.linalg.matrix_rank(moved_by) == 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", [("layer3.1", 256, 16), ("layer4.1", 512, 32)]),
        ("mobilenet_v3_small", [("features.8", 48, 16), ("features.11", 96, 32)]),
        ("convnext_tiny", [("features.5", 384, 16), ("features.7", 768, 32)]),
        ("densenet121", [("features.denseblock3", 1024, 16), ("features.denseblock4", 1024, 32)]),
        ("timm:repvgg_a2", [("stages.2", 384, 16), ("stages.3", 1408, 32)]),
        ("timm:tf_efficientnet_lite0", [("blocks.4", 112, 16), ("blocks.6", 320, 32)]),
    ],
)
def test_stages_end_before_what_only_widens_or_leads_on(
    name: str, expected: list[tuple[str, int, int]]
) -> None:
    model = backbone(name)
    found = last_stages(model.module, model.stem_layer, 64, 2)
    assert found == [StagePlace(*place) for place in expected]
    assert last_stages(model.module, model.stem_layer, 64, 0) == []


@pytest.mark.parametrize("layer", ["layer2", "layer2.0.bn1", "layer2.1"])
def test_a_stem_that_is_named_has_no_stage_corrected_within_it(layer: str) -> None:
    model = load_backbone("resnet18", "none", layer)
    config = config_for(model, "light")
    assert [place.layer for place in config.stages] == ["layer3.1", "layer4.1"]
    pixels, dct = inputs()
    found = AFDClassifier(model, AFDModule(config))(pixels, dct)
    torch.testing.assert_close(found.logits, model.module(pixels))


def test_a_classifier_of_plain_convolutions_has_none_to_correct() -> None:
    with pytest.raises(ValueError, match=r"alexnet has no stage .* --corrected-stages 0"):
        config_for(backbone("alexnet"), "paper", corrected_stages=1)


def test_the_rest_of_the_backbone_sees_the_corrected_features() -> None:
    model = backbone("resnet18")
    afd = module(model, trained=True)
    classifier = AFDClassifier(model, afd)
    pixels, dct = inputs()
    net = model.module
    x = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
    third, fourth = afd.stage_corrections
    x = fourth(net.layer4(third(net.layer3(net.layer2(net.layer1(x))))))
    expected = net.fc(net.avgpool(x).flatten(1))
    torch.testing.assert_close(classifier.features(pixels, dct).logits, expected)
    torch.testing.assert_close(classifier(pixels, dct).logits, expected)
    assert not torch.allclose(expected, net(pixels), rtol=1e-2)
    assert classifier.bare(pixels).logits.equal(net(pixels))
    assert classifier(pixels, dct).drift_angle_deg.equal(torch.zeros(3))  # the stem is as it was


def test_an_untrained_one_changes_no_label() -> None:
    model = backbone("resnet18")
    afd = module(model, trained=False)
    assert afd.is_identity
    torch.testing.assert_close(
        AFDClassifier(model, afd)(*inputs()).logits, model.module(inputs()[0])
    )
    assert not module(model, trained=True).is_identity


def test_only_the_corrections_own_weights_are_saved_and_learnt() -> None:
    model = backbone("resnet18")
    afd = module(model, trained=True)
    classifier = AFDClassifier(model, afd).train()
    keys = [key for key in classifier.state_dict() if "correction" in key]
    assert keys
    assert all(key.startswith("afd.stage_corrections.") for key in keys)
    classifier.features(*inputs()).logits.square().mean().backward()
    for correction in afd.stage_corrections:
        assert all(p.grad is not None and p.grad.any() for p in correction.parameters())
    assert all(p.grad is None for p in model.module.parameters())
