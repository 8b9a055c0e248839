"""The validation metric: how often compressed images keep the label of the clean image."""

import torch
from torch import Tensor

from afd_model.training.distributed import summed
from afd_model.training.losses import kl_to_clean


class Agreement:
    """Accumulates over batches, as in torchmetrics: `update`, then `compute`.

    Args:
        device: of the batches.
    """

    def __init__(self, device: torch.device) -> None:
        # Counts: pairs; compressed ones; of these, label kept with the module, and by the backbone
        # alone; clean ones with the label kept; and the sum of the KL divergences.
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)

    def update(self, enhanced: Tensor, direct: Tensor, clean: Tensor, compressed: Tensor) -> None:
        """Adds a batch of pairs.

        Args:
            enhanced: (B, K), logits of the second image of each pair, with the AFD-Module.
            direct: the same by the backbone alone.
            clean: logits of the clean images by the backbone alone.
            compressed: (B,) bool, whether the second image is compressed at all.
        """
        labels = clean.argmax(1)
        kept, kept_directly = enhanced.argmax(1) == labels, direct.argmax(1) == labels
        every_one = torch.ones_like(compressed)
        flags = (every_one, compressed, kept & compressed, kept_directly & compressed)
        self._sums[:5] += torch.stack([*flags, kept & ~compressed]).sum(1)
        self._sums[5] += kl_to_clean(enhanced, clean).sum()

    def compute(self) -> dict[str, float]:
        """The metric over all workers; empty without pairs.

        `agreement` is the share of pairs with the backbone's label for the clean image;
        `compressed_agreement` that of the compressed ones, `clean_agreement` that of the others;
        `direct_agreement` that of the compressed ones by the backbone alone. A share of no pairs is
        left out. `kl` is the mean KL divergence from the clean prediction, nats.
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
