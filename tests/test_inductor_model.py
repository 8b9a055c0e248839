"""A compiled function of batches: any number of images up to the one that it was compiled for.

Without CUDA nothing is recorded and Inductor would call a C++ compiler: the steps around both are
tested here, what they give on a GPU in test_predictor.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from afd_model.inference.inductor_model import InductorModel


def mixed(pixels: Tensor, quality: Tensor) -> Tensor:
    """Every row depends on its own images alone."""
    return torch.cat([pixels.flatten(1).sum(1, keepdim=True), quality[:, None] ** 2], dim=1)


def inputs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 4, 4, generator=generator), torch.arange(count).float()


@pytest.fixture
def batches() -> InductorModel:
    return InductorModel(mixed, inputs(6), backend="eager")


def test_fewer_images_give_their_own_rows(batches: InductorModel) -> None:
    for count in (6, 2, 1, 6, 0):
        given = inputs(count, seed=count)
        torch.testing.assert_close(batches(*given), mixed(*given))


def test_a_result_outlives_the_next_call() -> None:
    memory = torch.empty(6, 2)

    def recorded(pixels: Tensor, quality: Tensor) -> Tensor:
        """Writes every result to the same place, as a graph does."""
        return memory.copy_(mixed(pixels, quality))

    batches = InductorModel(recorded, inputs(6), backend="eager")
    first = batches(*inputs(3, seed=1))
    kept = first.clone()
    batches(*inputs(3, seed=2))
    assert torch.equal(first, kept)


def test_it_is_compiled_once() -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        compiled.append(tuple(x.shape[0] for x in example))
        return graph.forward

    batches = InductorModel(mixed, inputs(5), backend=backend)
    for count in (5, 4, 1):
        batches(*inputs(count))
    assert compiled == [(5, 5)]


def test_what_cannot_be_compiled_is_said_in_one_line() -> None:
    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        raise RuntimeError("no C compiler\nhere")

    with pytest.raises(ValueError, match="Inductor cannot run this classifier"):
        InductorModel(mixed, inputs(2), backend=backend)


def test_too_little_memory_is_told_apart() -> None:
    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        def run(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    with pytest.raises(torch.OutOfMemoryError):
        InductorModel(mixed, inputs(2), backend=backend)
