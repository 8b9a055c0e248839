"""The flip model's fit against data drawn from a known model."""

import math

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.drift import drift
from afd_model.flip_model import FLIP_FEATURES, FlipModel, FlipScorer, flip_features
from afd_model.training.flip_fit import (
    RIDGE,
    also_without_quality,
    fit_flip_model,
    flip_samples,
)
from afd_model.training.pairs import PairBatch


def flip_data(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, flips drawn from a known logistic model, and that model's probabilities."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, len(FLIP_FEATURES))) * 3 + 5
    features[: count // 4, FLIP_FEATURES.index("quality")] = np.nan
    logit = 0.5 * (features[:, 0] - 5) - 0.8 * (features[:, 1] - 5) - 1
    probability = 1 / (1 + np.exp(-logit))
    return features, (rng.random(count) < probability).astype(float), probability


def test_a_flip_is_the_enhanced_pictures_label_against_the_clean_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(16, 3, 64, 64, generator=generator)
    degraded = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    dct = torch.randn(16, 192, 8, 8, generator=generator) * 20
    file_facts = torch.stack([torch.linspace(5, 95, 16), torch.linspace(0, 2, 16)], 1)
    torch.manual_seed(0)
    backbone = load_backbone(MINIATURE, "none")
    module = AFDModule(config_for(backbone, "light"))
    torch.nn.init.normal_(module.fe_net.exit.weight, std=0.1)
    classifier = AFDClassifier(backbone, module).eval()
    with torch.no_grad():  # untrained, it gives every picture one label
        bias = backbone.module.get_submodule("fc").bias
        bias -= classifier.bare(clean).logits.mean(0)
        labels = [classifier.bare(x).logits.argmax(1) for x in (clean, degraded)]
        found = classifier.features(degraded, dct)
    flipped = found.logits.argmax(1) != labels[0]
    for others in (labels[1] != labels[0], found.logits.argmax(1) != labels[1], ~flipped):
        assert not torch.equal(flipped, others)  # so that each is told from what is meant
    angle = drift(found.stem_features, found.enhanced_features).angle_deg
    features = flip_features(angle, found.logits.softmax(1), dct, file_facts)
    batch = PairBatch(clean, degraded, dct, file_facts, torch.ones(16, dtype=torch.bool))
    samples = flip_samples(classifier, batch)
    torch.testing.assert_close(samples, torch.cat([features, flipped[:, None].float()], 1))


def test_the_fit_is_at_the_optimum_of_features_with_outliers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):  # of which Newton's full steps overshoot in some
        features = rng.standard_cauchy((400, len(FLIP_FEATURES)))
        flipped = (features[:, 0] + rng.normal(size=400) > 8).astype(float)
        model = fit_flip_model(features, flipped)
        design = (features - np.array(model.means)) / np.array(model.scales)
        z = model.intercept + design @ np.array(model.coefficients)
        gradient = design.T @ (1 / (1 + np.exp(-z)) - flipped) + RIDGE * np.array(
            model.coefficients
        )
        assert np.abs(gradient).max() < 1e-3


def test_the_flip_fit_recovers_the_model_that_drew_the_data() -> None:
    features, flipped, truth = flip_data()
    model = fit_flip_model(features, flipped)
    found = FlipScorer(model)(torch.tensor(features, dtype=torch.float32)).numpy()
    assert np.abs(found - truth).mean() < 0.02
    # At the optimum of a logistic regression the predictions sum to the flips.
    assert found.sum() == pytest.approx(flipped.sum(), rel=1e-3)


def test_the_flip_fit_is_where_the_penalised_likelihood_is_flat() -> None:
    features, flipped, _ = flip_data(500)
    model = fit_flip_model(features, flipped)
    standard = np.nan_to_num((features - model.means) / model.scales)
    coefficients = np.array(model.coefficients)
    p = 1 / (1 + np.exp(-(standard @ coefficients + model.intercept)))
    gradient = standard.T @ (p - flipped) + coefficients  # the prior: standard normal
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    assert (p - flipped).sum() == pytest.approx(0, abs=1e-3)


def test_a_compressed_picture_without_a_stated_quality_is_not_taken_for_a_clean_one() -> None:
    """In training a quality is missing only where nothing was compressed: there few labels flip."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8000, len(FLIP_FEATURES)))
    clean = np.arange(8000) < 1600
    quality, missing = FLIP_FEATURES.index("quality"), FLIP_FEATURES.index("quality_missing")
    features[:, quality] = np.where(clean, np.nan, rng.uniform(5, 95, 8000))
    features[:, missing] = clean
    angle = FLIP_FEATURES.index("log_drift_angle")
    features[clean, angle] -= 2.0
    flipped = (rng.random(8000) < 1 / (1 + np.exp(2 - features[:, angle] + clean))).astype(float)

    compressed, truth = features[~clean].copy(), flipped[~clean].mean()
    compressed[:, quality], compressed[:, missing] = np.nan, 1.0
    as_mozjpeg_writes_it = torch.tensor(compressed, dtype=torch.float32)
    deluded = FlipScorer(fit_flip_model(features, flipped))(as_mozjpeg_writes_it)
    model = fit_flip_model(*also_without_quality(features, flipped))
    assert deluded.mean().item() < 0.6 * truth
    assert FlipScorer(model)(as_mozjpeg_writes_it).mean().item() == pytest.approx(truth, rel=0.05)
    as_they_are = FlipScorer(model)(torch.tensor(features[~clean], dtype=torch.float32))
    assert as_they_are.mean().item() == pytest.approx(truth, rel=0.01)


def test_what_lacks_a_quality_is_not_counted_twice() -> None:
    features, flipped, _ = flip_data(40)  # ten of them without
    found, targets = also_without_quality(features, flipped)
    quality = FLIP_FEATURES.index("quality")
    assert np.array_equal(found[:30], features[10:])
    assert np.isnan(found[30:, quality]).all()
    assert (found[30:, FLIP_FEATURES.index("quality_missing")] == 1).all()
    assert np.array_equal(found[30:, :quality], features[:, :quality])
    assert np.array_equal(targets, np.concatenate([flipped[10:], flipped]))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_data_without_both_outcomes_give_a_constant(value: float) -> None:
    features, flipped, _ = flip_data(99)
    model = fit_flip_model(features, np.full_like(flipped, value))
    found = FlipScorer(model)(torch.tensor(features, dtype=torch.float32))
    torch.testing.assert_close(found, torch.full_like(found, 0.995 if value else 0.005))
    assert isinstance(model, FlipModel)


def test_separable_data_stay_finite() -> None:
    features, _, _ = flip_data(200)
    model = fit_flip_model(features, (features[:, 0] > 5).astype(float))
    assert all(map(math.isfinite, (model.intercept, *model.coefficients)))
    with pytest.raises(ValueError, match="flip fit takes"):
        fit_flip_model(features[:, :3], np.zeros(200))
