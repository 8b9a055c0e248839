"""The flip model's inputs and its probability against their definitions."""

import math

import pytest
import torch

from afd_model.flip_model import (
    FLIP_FEATURES,
    FLIP_TEMPERATURE,
    FlipModel,
    FlipScorer,
    confidence_logit,
    flip_features,
)


def features(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_confidence_logit_is_that_of_the_softmax_at_its_temperature() -> None:
    logits = features(2, (5, 10)) * 3
    share = torch.softmax(logits.double() / FLIP_TEMPERATURE, 1).max(1).values
    found = confidence_logit(torch.softmax(logits, 1))
    torch.testing.assert_close(found.double(), torch.logit(share), rtol=1e-4, atol=1e-4)


def test_a_certain_prediction_has_a_finite_confidence_logit() -> None:
    assert confidence_logit(torch.eye(4)).tolist() == [10.0] * 4


def flip_model(**coefficients: float) -> FlipModel:
    count = len(FLIP_FEATURES)
    values = tuple(coefficients.get(name, 0.0) for name in FLIP_FEATURES)
    return FlipModel(-0.5, values, means=(1.0,) * count, scales=(2.0,) * count)


UNKNOWN = torch.full((4,), math.nan)


def flip_inputs(quality: torch.Tensor = UNKNOWN) -> torch.Tensor:
    """Of pictures that are enlarged by 0, 1, 2 and 3 doublings."""
    probabilities = torch.softmax(features(2, (4, 10)), dim=1)
    dct = features(3, (4, 192, 2, 2)) * 20
    file_facts = torch.stack([quality, torch.arange(4)], dim=1)
    return flip_features(torch.tensor([0.0, 1.0, 5.0, 30.0]), probabilities, dct, file_facts)


def test_flip_features_are_what_their_names_say() -> None:
    quality = torch.tensor([7.0, math.nan, 95.0, 50.0])
    found = flip_inputs(quality)
    assert found.shape == (4, len(FLIP_FEATURES))
    column = dict(zip(FLIP_FEATURES, found.T, strict=True))
    probabilities = torch.softmax(features(2, (4, 10)), dim=1)
    torch.testing.assert_close(column["confidence_logit"], confidence_logit(probabilities))
    angles = torch.tensor([0.1, 1.1, 5.1, 30.1])
    torch.testing.assert_close(column["log_drift_angle"], angles.log())
    for band, start, stop in (("luma_low", 1, 6), ("luma_mid", 6, 21), ("luma_high", 21, 64)):
        luma = (features(3, (4, 192, 2, 2)) * 20)[:, start:stop].abs().mean((1, 2, 3))
        torch.testing.assert_close(column[band], torch.log1p(luma))
    assert column["quality_missing"].tolist() == [0, 1, 0, 0]
    assert column["enlargement"].tolist() == [0, 1, 2, 3]
    dct = features(3, (4, 192, 2, 2))
    file_facts = torch.zeros(4, 2, dtype=torch.float64)
    assert flip_features(quality, probabilities.double(), dct, file_facts).dtype == torch.float32


def test_flip_probability_is_the_logistic_of_standardised_features() -> None:
    model = flip_model(log_drift_angle=0.8)
    found = FlipScorer(model)(flip_inputs())
    logits = [-0.5 + 0.8 * (math.log(angle + 0.1) - 1) / 2 for angle in (0, 1, 5, 30)]
    expected = torch.tensor([1 / (1 + math.exp(-x)) for x in logits])
    torch.testing.assert_close(found, expected)


def test_a_missing_quality_counts_as_the_mean_one() -> None:
    model = flip_model(quality=0.8)
    missing = FlipScorer(model)(flip_inputs())
    mean = FlipScorer(model)(flip_inputs(torch.ones(4)))
    torch.testing.assert_close(missing, mean)


def test_a_flip_model_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="flip model: 1 coefficients, not 8"):
        FlipModel(0.0, (1.0,), (0.0,) * 8, (1.0,) * 8)
