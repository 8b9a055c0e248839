"""Collectives over data-parallel workers; without torch.distributed, those of a single one."""

import torch
import torch.distributed as dist
from torch import Tensor


def num_workers() -> int:
    """The world size."""
    return dist.get_world_size() if _started() else 1


def is_first() -> bool:
    """Whether this is the worker of rank 0, which writes files."""
    return not _started() or dist.get_rank() == 0


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the workers, in one all-reduce."""
    if not _started():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= num_workers()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def summed(values: Tensor) -> Tensor:
    """Sums a tensor over the workers, in place."""
    if _started():
        dist.all_reduce(values)
    return values


def gathered(rows: Tensor) -> Tensor:
    """Concatenates the rows of all workers, (n_k, C) each, by rank: (sum n_k, C)."""
    if not _started():
        return rows
    # all_gather needs equal shapes: pad to the largest number of rows.
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(num_workers())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    padded = rows.new_zeros(most, rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def any_worker(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any worker; a collective call."""
    if not _started():
        return flag
    return bool(summed(torch.tensor([float(flag)], device=device))[0] > 0)


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
