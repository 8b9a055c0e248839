"""How often the labels of held-out pictures, compressed, are those of the clean ones."""

import torch
from torch import Tensor

from afd_model.training.distributed import summed
from afd_model.training.losses import kl_to_clean


class Agreement:
    """Adds up what a validation sees, batch by batch.

    Args:
        device: of the batches.
    """

    def __init__(self, device: torch.device) -> None:
        # Pairs; compressed ones; of these, those whose label the module and the bare backbone
        # keep; clean ones whose label the module keeps; the divergences.
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, found: Tensor, direct: Tensor, clean: Tensor, compressed: Tensor) -> None:
        """Counts a batch.

        Args:
            found, direct, clean: (B, K) logits: with the module, of the bare backbone, and of the
                bare backbone for the clean picture.
            compressed: (B,) bool.
        """
        labels = clean.argmax(1)
        kept, kept_directly = found.argmax(1) == labels, direct.argmax(1) == labels
        every_one = torch.ones_like(compressed)
        flags = (every_one, compressed, kept & compressed, kept_directly & compressed)
        self._sums[:5] += torch.stack([*flags, kept & ~compressed]).sum(1)
        self._sums[5] += kl_to_clean(found, clean).sum()

    def score(self) -> dict[str, float]:
        """Over all workers; empty without a pair.

        Shares of images: `agreement` of the label with the backbone's for the clean picture, over
        all pairs; `compressed_agreement` over the compressed ones, and `direct_agreement`, which
        is the bare backbone's on the same; `clean_agreement` over the clean ones; a share of no
        pairs is left out. And `kl`, the mean divergence from the clean prediction, nats.
        """
        images, compressed, kept, kept_directly, clean, kl = summed(self._sums).tolist()
        if not images:
            return {}
        score = {"agreement": (kept + clean) / images}
        if compressed:
            score["compressed_agreement"] = kept / compressed
            score["direct_agreement"] = kept_directly / compressed
        if images > compressed:
            score["clean_agreement"] = clean / (images - compressed)
        score["kl"] = kl / images
        return score
