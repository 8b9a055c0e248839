"""The flip model's fit against data drawn from a known model."""

import math

import numpy as np
import pytest
import torch

from afd_model.drift import FLIP_FEATURES, FlipModel, flip_probability
from afd_model.training.flip_fit import fit_flip_model


def flip_data(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, flips drawn from a known logistic model, and that model's probabilities."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, len(FLIP_FEATURES))) * 3 + 5
    features[: count // 4, FLIP_FEATURES.index("quality")] = np.nan
    logit = 0.5 * (features[:, 0] - 5) - 0.8 * (features[:, 1] - 5) - 1
    probability = 1 / (1 + np.exp(-logit))
    return features, (rng.random(count) < probability).astype(float), probability


def test_the_flip_fit_recovers_the_model_that_drew_the_data() -> None:
    features, flipped, truth = flip_data()
    model = fit_flip_model(features, flipped)
    found = flip_probability(model, torch.tensor(features, dtype=torch.float32)).numpy()
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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_data_without_both_outcomes_give_a_constant(value: float) -> None:
    features, flipped, _ = flip_data(99)
    model = fit_flip_model(features, np.full_like(flipped, value))
    found = flip_probability(model, torch.tensor(features, dtype=torch.float32))
    torch.testing.assert_close(found, torch.full_like(found, 0.995 if value else 0.005))
    assert isinstance(model, FlipModel)


def test_separable_data_stay_finite() -> None:
    features, _, _ = flip_data(200)
    model = fit_flip_model(features, (features[:, 0] > 5).astype(float))
    assert all(map(math.isfinite, (model.intercept, *model.coefficients)))
    with pytest.raises(ValueError, match="flip fit takes"):
        fit_flip_model(features[:, :3], np.zeros(200))
