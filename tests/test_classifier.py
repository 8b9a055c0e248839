"""The classifier around the AFD-Module: where it sits, what it leaves alone, what compiles."""

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from afd_model.afd_config import AFDConfig
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.drift import drift


@cache
def backbone(name: str = "resnet18") -> Backbone:
    return load_backbone(name, "none")


def trained(model: Backbone, **changes: object) -> AFDModule:
    torch.manual_seed(0)
    module = AFDModule(replace(config_for(model, "paper"), width=4, fde_hidden=8, **changes))
    for parameter in module.fe_net.exit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    return pixels, torch.randn(2, 192, 8, 8, generator=generator) * 20


def test_without_a_module_it_is_the_backbone() -> None:
    classifier = AFDClassifier(backbone(), None)
    output = classifier(*inputs())
    assert torch.equal(output.logits, backbone().module(inputs()[0]))
    assert torch.equal(output.drift_angle_deg, torch.zeros(2))


def test_the_enhanced_features_are_what_the_rest_of_the_backbone_sees() -> None:
    model = backbone()
    afd = trained(model)
    pixels, dct = inputs()
    found = AFDClassifier(model, afd).features(pixels, dct)
    net = model.module
    stem = net.relu(net.bn1(net.conv1(pixels)))
    torch.testing.assert_close(found.stem_features, stem)
    torch.testing.assert_close(found.enhanced_features, afd(stem, dct)[0])
    x = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(found.enhanced_features)))))
    torch.testing.assert_close(found.logits, net.fc(net.avgpool(x).flatten(1)))
    assert not torch.allclose(found.logits, net(pixels), rtol=1e-3)


def test_the_stem_alone_runs_nothing_behind_it() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    classifier.backbone.layer1.register_forward_hook(lambda *_: pytest.fail("ran on"))
    pixels, dct = inputs()
    before, after = classifier.stem(pixels, dct)
    bare, same = classifier.stem(pixels)
    assert torch.equal(bare, same)
    classifier.backbone.layer1._forward_hooks.clear()
    seen = classifier.features(pixels, dct)
    assert torch.equal(before, seen.stem_features)
    assert torch.equal(bare, seen.stem_features)
    assert torch.equal(after, seen.enhanced_features)


def test_drift_is_between_the_stems_features_before_and_after() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    output, seen = classifier(*inputs()), classifier.features(*inputs())
    expected = drift(seen.stem_features, seen.enhanced_features)
    torch.testing.assert_close(output.drift_angle_deg, expected.angle_deg)
    torch.testing.assert_close(output.drift_energy, expected.energy)
    assert output.drift_angle_deg.min() > 0


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "bn1"),  # before a ReLU in place
        ("resnet18", "layer1.0.bn2"),  # before an addition in place
        ("mobilenet_v2", "features.0.1"),
    ],
)
def test_features_that_the_next_layer_overwrites_are_kept_as_they_were(
    name: str, layer: str
) -> None:
    model = load_backbone(name, "none", layer)
    classifier = AFDClassifier(model, trained(model))
    pixels, dct = inputs()
    stem, enhanced = classifier.stem(pixels, dct)
    seen, bare = classifier.features(pixels, dct), classifier.bare(pixels)
    assert stem.min() < 0  # so that an activation changes them
    assert torch.equal(seen.stem_features, stem)
    assert torch.equal(seen.enhanced_features, enhanced)
    assert torch.equal(bare.stem_features, stem)
    assert torch.equal(bare.logits, model.module(pixels))
    found = classifier(pixels, dct).drift_angle_deg
    torch.testing.assert_close(found, drift(stem, enhanced).angle_deg)


def test_enhancing_part_by_part_changes_no_row() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone())).eval()
    pixels, dct = (torch.cat([x, x.flip(0) + 1, x[:1] - 1]) for x in inputs())
    with torch.inference_mode():
        whole = classifier(pixels, dct)
        classifier.afd_micro_batch = 2
        parts = classifier(pixels, dct)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_bare_backbone_stays_at_hand_and_the_given_one_untouched() -> None:
    model = backbone()
    keys = list(model.module.state_dict())
    classifier = AFDClassifier(model, trained(model))
    pixels, dct = inputs()
    classifier(pixels, dct)
    bare = classifier.bare(pixels)
    assert torch.equal(bare.logits, model.module(pixels))
    assert bare.stem_features is bare.enhanced_features
    assert list(model.module.state_dict()) == keys
    shared = {p.data_ptr() for p in model.module.parameters()}
    assert {p.data_ptr() for p in classifier.backbone.parameters()} == shared


def test_training_mode_leaves_the_backbones_statistics_alone() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone())).train()
    assert classifier.afd is not None
    assert classifier.afd.training
    assert not any(module.training for module in classifier.backbone.modules())


def test_an_untrained_module_is_no_trained_one() -> None:
    untrained = AFDModule(config_for(backbone(), "light"))
    modules = [None, untrained, trained(backbone())]
    found = [AFDClassifier(backbone(), module).has_trained_module for module in modules]
    assert found == [False, False, True]


def test_the_module_is_saved_once() -> None:
    classifier = AFDClassifier(backbone(), trained(backbone()))
    assert not [key for key in classifier.state_dict() if "afd" in key and key[:4] != "afd."]


def test_a_module_for_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match="for 7 stem channels; resnet18 has 64"):
        AFDClassifier(backbone(), AFDModule(AFDConfig(stem_channels=7, stem_stride=2)))


@pytest.mark.parametrize(
    ("name", "light"), [("resnet18", False), ("timm:tf_efficientnet_lite0", True)]
)
def test_exports_and_compiles_without_graph_breaks(name: str, *, light: bool) -> None:
    model = backbone(name)
    shape: dict[str, Any] = {}
    if light:
        stages = config_for(model, "light").stages
        shape = {"reduction": 4, "levels": 0, "fdm_on": "bottleneck", "stages": stages}
    classifier = AFDClassifier(model, trained(model, **shape)).eval()
    pixels, dct = inputs()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = classifier(pixels, dct)
        exported = torch.export.export(classifier, (pixels, dct)).module()
        compiled = torch.compile(classifier, fullgraph=True, backend="eager")
        outputs = [model(pixels, dct) for model in (exported, compiled)]
    for found in outputs:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
