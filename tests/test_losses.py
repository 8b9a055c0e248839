"""The loss terms against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.feature_taps import EmbeddingTap, StageTap, head_path, stages_after_stem
from afd_model.training.losses import (
    LOSS_TERMS,
    LossInputs,
    LossWeights,
    embedding_distance,
    feature_distance,
    kl_to_clean,
    logit_distance,
    stem_l1,
    training_loss,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def watched(seed: int, *, requires_grad: bool = False) -> LossInputs:
    tensors = [random(4, 10, seed=seed), random(4, 6, 8, 8, seed=seed), random(4, 5, 4, 4)]
    for tensor in tensors:
        tensor.requires_grad_(requires_grad)
    embedding = random(4, 7, seed=seed + 50).requires_grad_(requires_grad)
    return LossInputs(tensors[0], tensors[1], [tensors[2] + seed], embedding)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_divergence_from_the_clean_prediction(temperature: float) -> None:
    logits, clean = random(5, 7) * 3, random(5, 7, seed=1) * 3
    p, q = (torch.softmax(x.double() / temperature, 1) for x in (clean, logits))
    expected = (p * (p / q).log()).sum(1) * temperature**2
    found = kl_to_clean(logits, clean, temperature).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert kl_to_clean(clean, clean).abs().max() < 1e-6
    half = kl_to_clean(logits.half(), clean.half())
    assert half.dtype == torch.float32


def test_a_hot_softmax_compares_logits_by_their_difference() -> None:
    """Hinton et al. 2015, equation 4: for T -> infinity the gradient is (z - v) / K, centred."""
    logits, clean = random(1, 10).requires_grad_(), random(1, 10, seed=1)
    kl_to_clean(logits, clean, 1000.0).sum().backward()
    difference = (logits - logits.mean() - clean + clean.mean()).detach() / 10
    torch.testing.assert_close(logits.grad, difference, rtol=0.01, atol=1e-3)


def test_logit_distance_is_relative_and_blind_to_a_constant() -> None:
    logits, clean = random(5, 7), random(5, 7, seed=1)
    z, y = (x.double() - x.double().mean(1, keepdim=True) for x in (logits, clean))
    expected = ((z - y).square().sum(1) / y.square().sum(1)).float()
    torch.testing.assert_close(logit_distance(logits, clean), expected)
    torch.testing.assert_close(logit_distance(logits * 10 + 3, clean * 10 - 5), expected)
    assert logit_distance(clean.half(), clean.half()).tolist() == [0] * 5
    assert logit_distance(clean, torch.zeros(5, 7)).isfinite().all()


def test_feature_distance_is_relative_to_the_clean_features() -> None:
    g = random(3, 4, 5, 6)
    torch.testing.assert_close(feature_distance(g * 1.1, g), torch.full((3,), 0.01))
    torch.testing.assert_close(feature_distance(g * 11, g * 10), torch.full((3,), 0.01))
    assert feature_distance(g, g).tolist() == [0, 0, 0]
    zero = torch.zeros_like(g)
    torch.testing.assert_close(feature_distance(g, zero), g.square().sum((1, 2, 3)))


def test_distances_have_finite_gradients_where_they_are_zero() -> None:
    g = random(2, 3, 4, 4)
    f = g.clone().requires_grad_()
    plain = LossWeights(features=1, distance="plain").mean_distance(feature_distance(f, g))
    (plain + (feature_distance(f, g) + stem_l1(f, g)).sum()).backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()


def test_plain_distances_are_the_squared_ones_roots_and_pull_alike_at_every_size() -> None:
    weights = LossWeights(features=1, distance="plain")
    squared = torch.tensor([0.04, 0.09, 0.25], requires_grad=True)
    assert weights.mean_distance(squared).item() == pytest.approx(1 / 3, rel=1e-4)
    g = random(1, 3, 4, 4)
    pulls = []
    for size in (0.1, 0.3):
        f = (g * (1 + size)).requires_grad_()
        weights.mean_distance(feature_distance(f, g)).backward()
        assert f.grad is not None
        pulls.append(f.grad.norm())
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-3, atol=0)


def test_embedding_distance_is_relative_to_the_clean_embedding() -> None:
    d = random(3, 7)
    torch.testing.assert_close(embedding_distance(d * 1.1, d), torch.full((3,), 0.01))
    assert embedding_distance(d.half(), d.half()).tolist() == [0, 0, 0]
    assert embedding_distance(d, torch.zeros(3, 7)).isfinite().all()


def test_stem_l1_is_the_mean_absolute_difference() -> None:
    f, g = random(3, 4, 5, 6), random(3, 4, 5, 6, seed=1)
    expected = torch.stack([(a - b).abs().mean() for a, b in zip(f, g, strict=True)])
    torch.testing.assert_close(stem_l1(f, g), expected)


def test_the_roots_of_the_divergence_pull_alike_however_far_a_picture_is_gone() -> None:
    clean = random(1, 10)
    away = F.normalize(random(1, 10, seed=1) - random(1, 10, seed=1).mean(), dim=1)
    pulls = {}
    for term in ("kl", "root_kl"):
        weights = LossWeights(**{term: 1.0})
        for distance in (0.2, 1.0):
            logits = (clean + distance * away).requires_grad_()
            found, target = (LossInputs(x, torch.empty(0), []) for x in (logits, clean))
            total, _ = training_loss(found, target, weights)
            total.backward()
            assert logits.grad is not None
            pulls[term, distance] = logits.grad.norm().item()
    assert pulls["kl", 1.0] > 4 * pulls["kl", 0.2]
    assert pulls["root_kl", 1.0] == pytest.approx(pulls["root_kl", 0.2], rel=0.2)


def test_the_root_of_no_divergence_has_a_gradient() -> None:
    logits = random(3, 10).requires_grad_()
    found, clean = (LossInputs(x, torch.empty(0), []) for x in (logits, logits.detach().clone()))
    total, _ = training_loss(found, clean, LossWeights(root_kl=1))
    total.backward()
    assert logits.grad is not None
    assert logits.grad.norm() < 1e-3


def test_the_sum_is_weighted_and_a_weight_of_zero_leaves_a_term_out() -> None:
    found, clean = watched(1, requires_grad=True), watched(2)
    weights = LossWeights(kl=2, root_kl=6, logits=4, embedding=5, features=3, stem_l1=0.5)
    total, terms = training_loss(found, clean, weights)
    assert tuple(terms) == LOSS_TERMS
    by_hand = 2 * terms["kl"] + 4 * terms["logits"] + 3 * terms["features"]
    by_hand += 5 * terms["embedding"] + 0.5 * terms["stem_l1"] + 6 * terms["root_kl"]
    torch.testing.assert_close(total.detach(), by_hand)
    assert found.embedding is not None
    assert clean.embedding is not None
    of_images = {
        "kl": kl_to_clean(found.logits, clean.logits),
        "root_kl": kl_to_clean(found.logits, clean.logits).sqrt(),
        "logits": logit_distance(found.logits, clean.logits),
        "embedding": embedding_distance(found.embedding, clean.embedding),
        "stem_l1": stem_l1(found.stem, clean.stem),
    }
    for name, distances in of_images.items():
        torch.testing.assert_close(terms[name], distances.mean().detach(), rtol=1e-3, atol=0)
    stages = [feature_distance(found.stem, clean.stem).mean()]
    stages += [feature_distance(found.stages[0], clean.stages[0]).mean()]
    torch.testing.assert_close(terms["features"], torch.stack(stages).mean().detach())
    assert total.requires_grad
    assert not any(term.requires_grad for term in terms.values())
    _, alone = training_loss(found, clean, LossWeights(stem_l1=1))
    assert set(alone) == {"stem_l1"}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"kl": -1.0}, "loss weight kl -1.0 is negative"),
        ({"root_kl": -0.5}, "loss weight root_kl -0.5 is negative"),
        ({"features": math.nan}, "loss weight features nan"),
        ({}, "nothing to train on"),
        ({"kl": 1, "temperature": 0}, "temperature 0"),
        ({"distance": "cubed"}, "unknown distance 'cubed'"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossWeights(**weights)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("layer1.1", "layer2.1", "layer3.1")),
        ("mobilenet_v2", ("features.3", "features.6", "features.13")),
        ("timm:tf_efficientnet_lite0", ("blocks.1", "blocks.2", "blocks.4")),
    ],
)
def test_stages_end_where_the_resolution_drops(name: str, expected: tuple[str, ...]) -> None:
    classifier = AFDClassifier(load_backbone(name, "none"), None)
    stages = stages_after_stem(classifier, 96, 3)
    assert stages == expected
    taps = StageTap(classifier, stages)
    with torch.no_grad():
        stem = classifier.bare(torch.zeros(2, 3, 96, 96)).stem_features
    sides = [features.shape[2] for features in taps.take()]
    assert sides == [24, 12, 6]
    assert stem.shape[2] == 48


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "timm:tf_efficientnet_lite0",
        "timm:mobilenetv3_small_050",  # its head is a layer that timm derives from PyTorch's
    ],
)
def test_the_embedding_is_what_the_logits_are_read_from(name: str) -> None:
    backbone = load_backbone(name, "none")
    classifier = AFDClassifier(backbone, None)
    tap = EmbeddingTap(classifier)
    with torch.no_grad():
        logits = classifier.bare(torch.randn(2, 3, 64, 64)).logits
        embedding = tap.take()
        assert embedding is not None
        head = [m for m in backbone.module.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.testing.assert_close(head(embedding), logits)
    assert tap.take() is None


class AttentionBehindHead(nn.Module):
    """A linear layer of `nn.MultiheadAttention` comes last, and its forward is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 10)
        self.pool = nn.MultiheadAttention(8, 2, batch_first=True)


def test_a_linear_layer_within_attention_is_not_the_head() -> None:
    assert head_path(AttentionBehindHead()) == "head"
    assert head_path(AttentionBehindHead().pool) is None


def test_a_backbone_without_a_linear_layer_has_no_embedding() -> None:
    classifier = AFDClassifier(load_backbone("squeezenet1_1", "none"), None)
    with pytest.raises(ValueError, match="no linear layer"):
        EmbeddingTap(classifier)
