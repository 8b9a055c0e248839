"""What is told about one picture is what the classifier does with it."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from checkpoints import MINIATURE

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import Backbone, load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.drift import drift_angle_deg
from afd_model.evaluation.explainer import explain


@cache
def backbone() -> Backbone:
    return load_backbone(MINIATURE, "none")


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pixels, dct, clean pixels) of one picture of 64x64."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(1, 3, 64, 64, generator=generator)
    pixels = clean + 0.3 * torch.randn(1, 3, 64, 64, generator=generator)
    return pixels, torch.randn(1, 192, 8, 8, generator=generator) * 20, clean


def module(*, trained: bool) -> AFDModule:
    torch.manual_seed(0)
    afd = AFDModule(replace(config_for(backbone(), "paper"), width=4, fde_hidden=8))
    if trained:
        for parameter in afd.fe_net.exit.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return afd


def test_everything_is_the_classifiers_own() -> None:
    pixels, dct, clean = inputs()
    classifier = AFDClassifier(backbone(), module(trained=True)).eval()
    found = explain(classifier, pixels, dct, clean)
    with torch.no_grad():
        seen = classifier.features(pixels, dct)
        logits = {"direct": backbone().module(pixels), "clean": backbone().module(clean)}
        original = classifier.bare(clean).stem_features
    for name, expected in (logits | {"afd": seen.logits}).items():
        label, probabilities = getattr(found, name), expected.softmax(1)[0]
        assert label.index == int(probabilities.argmax())
        assert label.confidence == pytest.approx(float(probabilities.max()), rel=1e-5)
    assert found.enhanced is not None
    torch.testing.assert_close(found.degraded, seen.stem_features[0])
    torch.testing.assert_close(found.enhanced, seen.enhanced_features[0])
    torch.testing.assert_close(found.clean_features, original[0])
    torch.testing.assert_close(found.fdm, seen.fdm[0])
    for name, a, b in (
        ("drift_angle_deg", seen.stem_features, seen.enhanced_features),
        ("true_angle_deg", seen.stem_features, original),
        ("remaining_angle_deg", seen.enhanced_features, original),
    ):
        assert getattr(found, name) == pytest.approx(float(drift_angle_deg(a, b)), rel=1e-5)


def test_without_an_original_nothing_is_said_about_it() -> None:
    pixels, dct, _ = inputs()
    found = explain(AFDClassifier(backbone(), module(trained=True)).eval(), pixels, dct)
    assert (found.clean, found.clean_features) == (None, None)
    assert (found.true_angle_deg, found.remaining_angle_deg) == (None, None)
    assert found.drift_angle_deg is not None


def test_an_untrained_module_tells_no_drift() -> None:
    found = explain(AFDClassifier(backbone(), module(trained=False)).eval(), *inputs())
    assert found.drift_angle_deg is None
    assert found.remaining_angle_deg == found.true_angle_deg
    assert found.afd is not None
    assert found.afd.index == found.direct.index
    assert found.afd.confidence == pytest.approx(found.direct.confidence, rel=1e-5)
    assert found.fdm is not None


def test_without_a_module_there_is_the_bare_backbone() -> None:
    found = explain(AFDClassifier(backbone(), None).eval(), *inputs())
    assert (found.afd, found.enhanced, found.fdm, found.drift_angle_deg) == (None,) * 4
    assert found.remaining_angle_deg is None
    assert found.true_angle_deg is not None
