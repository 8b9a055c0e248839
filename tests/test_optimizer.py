"""Muon and AdamW for the module: what moves, how far, and what a resumed run needs."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from afd_model.training.optimizer import OPTIMIZERS, ModuleOptimizer, OptimizerKind

RATE = 0.01


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 4, 3), nn.PReLU(4), nn.Conv2d(4, 8, 1))


def with_gradients(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return module


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_muon_moves_a_kernel_alike_in_every_direction() -> None:
    module = with_gradients(net())
    before = values(module)
    # A gradient that is all but in one direction.
    kernel = module.get_parameter("0.weight")
    kernel.grad = torch.outer(torch.ones(4), torch.ones(54)).view(4, 6, 3, 3)
    kernel.grad += 0.02 * torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    ModuleOptimizer(module, "muon", 0.0).step(RATE)
    moved = before["0.weight"] - module.get_parameter("0.weight").detach()
    sizes = torch.linalg.svdvals(moved.view(4, -1)) / (RATE * 0.2 * math.sqrt(54))
    assert sizes.min() > 0.3  # of the gradient they are 1 to 0.01
    assert sizes.max() < 1.4


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_biases_and_slopes_move_as_adamw_moves_them(kind: OptimizerKind) -> None:
    module, other = with_gradients(net()), with_gradients(net())
    torch.optim.AdamW(other.parameters(), lr=RATE, weight_decay=0).step()
    ModuleOptimizer(module, kind, 0.0).step(RATE)
    for name in ("0.bias", "1.weight", "2.bias"):
        torch.testing.assert_close(module.get_parameter(name), other.get_parameter(name))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_only_weights_decay(kind: OptimizerKind) -> None:
    module = net()
    before = values(module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ModuleOptimizer(module, kind, 0.5).step(RATE)
    for name, value in values(module).items():
        shrunk = 1 - RATE * 0.5 if name in ("0.weight", "2.weight") else 1.0
        torch.testing.assert_close(value, before[name] * shrunk)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_goes_on_from_its_state(kind: OptimizerKind) -> None:
    whole = net()
    optimizer = ModuleOptimizer(whole, kind, 0.01)
    with_gradients(whole)
    optimizer.step(RATE)
    state, halfway = copy.deepcopy(optimizer.state_dict()), values(whole)
    broken = net()
    broken.load_state_dict(halfway)
    resumed = ModuleOptimizer(broken, kind, 0.01)
    resumed.load_state_dict(state)
    for module, its in ((whole, optimizer), (broken, resumed)):
        with_gradients(module, seed=3)
        its.step(RATE / 2)
    for name, value in values(whole).items():
        assert torch.equal(value, broken.get_parameter(name))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_after_forgetting_a_step_is_as_the_first(kind: OptimizerKind) -> None:
    module, fresh = net(), net()
    optimizer = ModuleOptimizer(module, kind, 0.0)
    with_gradients(module)
    optimizer.step(RATE)
    fresh.load_state_dict(module.state_dict())
    optimizer.reset_state()
    for each, its in ((module, optimizer), (fresh, ModuleOptimizer(fresh, kind, 0.0))):
        with_gradients(each, seed=4)
        its.step(RATE)
    for name, value in values(module).items():
        torch.testing.assert_close(value, fresh.get_parameter(name))


def test_what_has_no_gradient_stays() -> None:
    module = with_gradients(net())
    optimizer = ModuleOptimizer(module, "muon", 0.1)
    before = values(module)
    optimizer.zero_grad()
    optimizer.step(RATE)
    assert all(torch.equal(value, before[name]) for name, value in values(module).items())


def test_another_kinds_state_is_refused() -> None:
    state = ModuleOptimizer(net(), "adamw", 0.0).state_dict()
    with pytest.raises(ValueError, match="number of parameter groups"):
        ModuleOptimizer(net(), "muon", 0.0).load_state_dict(state)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'sgd': one of adamw, muon"):
        ModuleOptimizer(net(), "sgd", 0.0)  # type: ignore[arg-type]
