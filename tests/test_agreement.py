"""Shares of labels, counted by hand."""

import math

import pytest
import torch

from afd_model.training.agreement import Agreement

CPU = torch.device("cpu")


def logits(*labels: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), 4).float()


def test_shares_are_of_the_pairs_that_they_are_about() -> None:
    counted = Agreement(CPU)
    clean = logits(0, 1, 2, 3)
    compressed = torch.tensor([False, True, True, True])
    counted.update(logits(0, 1, 2, 0), logits(0, 1, 0, 0), clean, compressed)
    counted.update(logits(1), logits(1), logits(0), torch.tensor([False]))
    score = counted.compute()
    # One logit of 1 among 0s: every picture of another label is as far from the clean one.
    one = math.e / (math.e + 3)
    assert score.pop("kl") == pytest.approx(2 * (one - (1 - one) / 3) / 5)
    assert score == {
        "agreement": 3 / 5,
        "compressed_agreement": 2 / 3,
        "direct_agreement": 1 / 3,
        "clean_agreement": 1 / 2,
    }


@pytest.mark.parametrize("compressed", [True, False])
def test_a_share_of_no_pairs_is_left_out(*, compressed: bool) -> None:
    counted = Agreement(CPU)
    counted.update(logits(2), logits(2), logits(2), torch.tensor([compressed]))
    missing = {"clean_agreement"} if compressed else {"compressed_agreement", "direct_agreement"}
    names = {"agreement", "compressed_agreement", "direct_agreement", "clean_agreement", "kl"}
    assert counted.compute().keys() == names - missing


def test_of_nothing_there_is_no_score() -> None:
    assert Agreement(CPU).compute() == {}
