"""What the AFD-Module is trained to: the frozen backbone's own answers for the clean picture.

No labels anywhere: the clean twin of a compressed picture is the target, at the logits, at the stem
and at a few stages between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["squared", "plain"]
_LEAST_SQUARED = 1e-6
_LEAST_KL = 1e-4  # nats


@dataclass(frozen=True)
class LossWeights:
    """The terms' weights in the sum; 0 leaves a term out, and its cost.

    Attributes:
        kl: `kl_to_clean` of the logits.
        root_kl: each picture's root of it. A hopeless picture pulls less by it than by the
            divergence, and one whose label is about to change pulls more.
        logits: `logit_distance`.
        embedding: `embedding_distance`.
        features: mean of `feature_distance` at the stem and the stages.
        stem_l1: `stem_l1`, the paper's only term.
        temperature: of the softmax in the first two.
        distance: of logits, embedding and features. "plain" is the root of "squared": its pull does
            not fade near 0, so that clean and nearly clean pictures are left as they are.
    """

    kl: float = 0.0
    root_kl: float = 0.0
    logits: float = 0.2
    embedding: float = 0.0
    features: float = 1.0
    stem_l1: float = 0.0
    temperature: float = 1.0
    distance: Distance = "squared"

    def __post_init__(self) -> None:
        terms = ("kl", "root_kl", "logits", "embedding", "features", "stem_l1")
        for name in (*terms, "temperature"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"loss weight {name} {value} is negative")
        if self.distance not in get_args(Distance):
            raise ValueError(f"unknown distance {self.distance!r}: squared or plain")
        if not any(getattr(self, name) for name in terms):
            raise ValueError("all loss weights are 0: there is nothing to train on")
        if self.temperature == 0:
            raise ValueError("temperature 0 is not positive")

    def mean_distance(self, squared: Tensor) -> Tensor:
        """The pictures' mean: squared relative distances (B,) -> scalar."""
        if self.distance == "squared":
            return squared.mean()
        # Not clamped: at 0 the root's gradient has no value, and a clean picture's may be 0.
        return (squared + _LEAST_SQUARED).sqrt().mean()


def kl_to_clean(logits: Tensor, clean_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of the prediction from the clean picture's, in nats: T^2 KL(p_clean || p).

    Args:
        logits, clean_logits: (B, K), any floating dtype; computed in float32.
        temperature: T divides both; T^2 keeps the gradient's size (Hinton et al. 2015).

    Returns:
        (B,) float32, at least 0.
    """
    log_p = F.log_softmax(logits.float() / temperature, dim=1)
    log_clean = F.log_softmax(clean_logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_p, log_clean, reduction="none", log_target=True).sum(1)
    return divergence * temperature**2


def feature_distance(features: Tensor, clean: Tensor) -> Tensor:
    """|f - g|^2 / |g|^2 over channels and positions: (B, C, h, w) twice -> (B,) float32.

    Dividing by the clean features' norm makes stages of unlike scale comparable; where they are
    all zero the distance is taken as it is.
    """
    difference = torch.linalg.vector_norm(features - clean, dim=(1, 2, 3), dtype=torch.float32)
    size = torch.linalg.vector_norm(clean, dim=(1, 2, 3), dtype=torch.float32)
    return (difference / torch.where(size > 0, size, 1.0)).square()


def logit_distance(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """|z - y|^2 / |y|^2 of the logits less their mean: (B, K) twice -> (B,) float32.

    The mean says nothing about the label. Unlike the KL it weighs a hopeless picture no more than
    others, whose gradients would drown theirs.
    """
    z, y = (x.float() - x.float().mean(1, keepdim=True) for x in (logits, clean_logits))
    return embedding_distance(z, y)


def embedding_distance(embedding: Tensor, clean: Tensor) -> Tensor:
    """|e - d|^2 / |d|^2 of what the last linear layer is given: (B, D) twice -> (B,) float32.

    The features that the label is read from, averaged over the picture: where in it they are found
    does not count, as it does at the stages before.
    """
    e, d = embedding.float(), clean.float()
    size = d.square().sum(1)
    return (e - d).square().sum(1) / torch.where(size > 0, size, 1.0)


def stem_l1(features: Tensor, clean: Tensor) -> Tensor:
    """Peng et al. 2024, the training loss: mean |f - g|; (B, C, h, w) twice -> (B,) float32."""
    return (features.float() - clean.float()).abs().mean((1, 2, 3))


@dataclass(frozen=True)
class Watched:
    """What the losses look at in one forward pass.

    Attributes:
        logits: (B, K).
        stem: (B, C, H, W), enhanced where there is an AFD-Module.
        stages: the features of `afd_model.stages`, (B, C_i, h_i, w_i) each.
        embedding: (B, D), what the last linear layer is given; None where nothing looks at it.
    """

    logits: Tensor
    stem: Tensor
    stages: Sequence[Tensor]
    embedding: Tensor | None = None


def training_loss(
    found: Watched, clean: Watched, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, a scalar, and its terms before weighting, detached scalars.

    found: of the compressed pictures. clean: of their clean twins, without gradients.
    """
    terms: dict[str, Tensor] = {}
    if weights.kl or weights.root_kl:
        divergence = kl_to_clean(found.logits, clean.logits, weights.temperature)
        if weights.kl:
            terms["kl"] = divergence.mean()
        if weights.root_kl:  # not clamped, for the same reason as in `mean_distance`
            terms["root_kl"] = (divergence + _LEAST_KL).sqrt().mean()
    if weights.logits:
        terms["logits"] = weights.mean_distance(logit_distance(found.logits, clean.logits))
    if weights.embedding:
        assert found.embedding is not None
        assert clean.embedding is not None
        distance = embedding_distance(found.embedding, clean.embedding)
        terms["embedding"] = weights.mean_distance(distance)
    if weights.features:
        distances = [
            weights.mean_distance(feature_distance(f, g))
            for f, g in zip((found.stem, *found.stages), (clean.stem, *clean.stages), strict=True)
        ]
        terms["features"] = torch.stack(distances).mean()
    if weights.stem_l1:
        terms["stem_l1"] = stem_l1(found.stem, clean.stem).mean()
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}
