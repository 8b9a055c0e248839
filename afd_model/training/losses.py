"""The training losses: distances from what the frozen backbone computes for the clean image.

No labels are used. The targets are the clean image's features at the stem and later stages, its
embedding and its logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["squared", "plain"]
LOSS_TERMS = ("kl", "root_kl", "logits", "embedding", "features", "stem_l1")
# Added under square roots, whose gradient is infinite at 0, where unchanged images are.
_SQUARED_EPS = 1e-6
_KL_EPS = 1e-4  # nats


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; a term of weight 0 is not computed.

    Attributes:
        kl: of `kl_to_clean`.
        root_kl: of its square root per image. Compared with the KL divergence, images that cannot
            be recovered have smaller gradients, and those whose label is about to change larger
            ones.
        logits: of `logit_distance`.
        embedding: of `embedding_distance`.
        features: of the mean `feature_distance` over the stem and the stages.
        stem_l1: of `stem_l1`, the paper's only term.
        temperature: of the softmax in `kl` and `root_kl`.
        distance: of logits, embedding and features: "squared", or "plain", its square root, whose
            gradient does not vanish near 0, which keeps clean and nearly clean images unchanged.
    """

    kl: float = 0.0
    root_kl: float = 0.0
    logits: float = 0.0
    embedding: float = 0.0
    features: float = 0.0
    stem_l1: float = 0.0
    temperature: float = 1.0
    distance: Distance = "squared"

    def __post_init__(self) -> None:
        for name in (*LOSS_TERMS, "temperature"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"loss weight {name} {value} is negative")
        if self.distance not in get_args(Distance):
            raise ValueError(f"unknown distance {self.distance!r}: squared or plain")
        if not any(getattr(self, name) for name in LOSS_TERMS):
            raise ValueError("all loss weights are 0: there is nothing to train on")
        if self.temperature == 0:
            raise ValueError("temperature 0 is not positive")

    def mean_distance(self, squared: Tensor) -> Tensor:
        """The mean over the images: squared relative distances (B,) -> scalar."""
        if self.distance == "squared":
            return squared.mean()
        return (squared + _SQUARED_EPS).sqrt().mean()


def kl_to_clean(logits: Tensor, clean_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the prediction from the clean image's, in nats: T^2 KL(p_clean || p).

    Args:
        logits, clean_logits: (B, K), any floating dtype; computed in float32.
        temperature: T, which divides both logits; T^2 keeps the scale of the gradient (Hinton et
            al. 2015, arXiv 1503.02531).

    Returns:
        (B,) float32, at least 0.
    """
    log_p = F.log_softmax(logits.float() / temperature, dim=1)
    log_clean = F.log_softmax(clean_logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_p, log_clean, reduction="none", log_target=True).sum(1)
    return divergence * temperature**2


def feature_distance(features: Tensor, clean: Tensor) -> Tensor:
    """|f - g|^2 / |g|^2 over channels and positions: (B, C, h, w) twice -> (B,) float32.

    Dividing by the norm of the clean features makes stages comparable; a norm of 0 counts as 1.
    """
    difference = torch.linalg.vector_norm(features - clean, dim=(1, 2, 3), dtype=torch.float32)
    size = torch.linalg.vector_norm(clean, dim=(1, 2, 3), dtype=torch.float32)
    return (difference / torch.where(size > 0, size, 1.0)).square()


def logit_distance(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """|z - y|^2 / |y|^2 of the logits minus their mean: (B, K) twice -> (B,) float32.

    The mean of the logits does not change the prediction. Unlike the KL divergence, this is bounded
    for images that cannot be recovered, so their gradients do not dominate.
    """
    z, y = (x.float() - x.float().mean(1, keepdim=True) for x in (logits, clean_logits))
    return embedding_distance(z, y)


def embedding_distance(embedding: Tensor, clean: Tensor) -> Tensor:
    """|e - d|^2 / |d|^2 of the last linear layer's inputs: (B, D) twice -> (B,) float32.

    These are averages over positions, so unlike `feature_distance` it ignores where in the image a
    feature is.
    """
    e, d = embedding.float(), clean.float()
    size = d.square().sum(1)
    return (e - d).square().sum(1) / torch.where(size > 0, size, 1.0)


def stem_l1(features: Tensor, clean: Tensor) -> Tensor:
    """Mean |f - g|, the loss of Peng et al. 2024: (B, C, h, w) twice -> (B,) float32."""
    return (features.float() - clean.float()).abs().mean((1, 2, 3))


@dataclass(frozen=True)
class LossInputs:
    """The tensors of a forward pass that the losses compare.

    Attributes:
        logits: (B, K).
        stem: (B, C, H, W), the stem's features, enhanced for the compressed images.
        stages: of `StageTap`, (B, C_i, h_i, w_i) each.
        embedding: (B, D), of `EmbeddingTap`; None if no loss uses it.
    """

    logits: Tensor
    stem: Tensor
    stages: Sequence[Tensor]
    embedding: Tensor | None = None


def training_loss(
    found: LossInputs, clean: LossInputs, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, and the terms before weighting; scalars, the latter detached.

    Args:
        found: of the compressed images.
        clean: of the same images uncompressed, without gradients.
        weights: of the terms.
    """
    terms: dict[str, Tensor] = {}
    if weights.kl or weights.root_kl:
        divergence = kl_to_clean(found.logits, clean.logits, weights.temperature)
        if weights.kl:
            terms["kl"] = divergence.mean()
        if weights.root_kl:
            terms["root_kl"] = (divergence + _KL_EPS).sqrt().mean()
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
