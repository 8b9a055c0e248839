"""What evaluation says of a batch is what labelling says of it, and the truth beside it."""

import math
import weakref

import numpy as np
import pytest
import torch
from checkpoints import MINIATURE
from torch import nn

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.drift import drift_angle_deg
from afd_model.evaluation.evaluator import Evaluator, Outcome, OutcomeTable
from afd_model.flip_model import FlipModel
from afd_model.inference.predictor import Predictor

CPU = torch.device("cpu")
# Above all of the confidence, by which the labels with the module and without are told apart.
FLIPS = FlipModel(0.0, (1.0,) * 8, (0.0,) * 8, (1.0, *(100.0,) * 7))


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(4, 3, 64, 64, generator=generator)
    return pixels, torch.randn(4, 192, 8, 8, generator=generator) * 20


def test_evaluation_says_what_labelling_says() -> None:
    torch.manual_seed(0)
    backbone = load_backbone(MINIATURE, "none")
    with torch.no_grad():
        backbone.module.get_submodule("fc").weight *= 30  # untrained, it is sure of nothing
    module = AFDModule(config_for(backbone, "light"))
    nn.init.normal_(module.fe_net.exit.weight, std=0.05)
    classifier = AFDClassifier(backbone, module).eval()
    as_run = {"device": CPU, "precision": torch.float32, "flip_model": FLIPS}
    evaluator = Evaluator(classifier, **as_run)  # type: ignore[arg-type]
    file_facts = torch.tensor([[10.0, 0.0], [25.0, 1.5], [math.nan, 0.0], [85.0, 0.0]])
    clean, (pixels, dct) = inputs(0)[0], inputs(1)
    found = evaluator.measure(pixels, dct, evaluator.clean_stem(clean), file_facts)

    labelled = Predictor(classifier, **as_run)(pixels, dct, file_facts)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.afd_top, labelled.top_labels)
    np.testing.assert_allclose(found.afd_confidence, labelled.confidences, rtol=1e-4)
    np.testing.assert_allclose(found.drift_angle_deg, labelled.drift_angle_deg, rtol=1e-3)
    np.testing.assert_allclose(found.flip_probability, labelled.flip_probability, rtol=1e-3)
    with torch.no_grad():
        bare = classifier.bare(pixels)
        truth = drift_angle_deg(bare.stem_features, classifier.bare(clean).stem_features)
    best = bare.logits.softmax(1).topk(5)
    np.testing.assert_array_equal(found.direct_top, best.indices)
    np.testing.assert_allclose(found.direct_confidence, best.values[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.true_angle_deg, truth, rtol=1e-3)
    assert np.abs(found.afd_confidence / found.direct_confidence - 1).max() > 0.01


def test_without_a_module_nothing_is_said_of_drift() -> None:
    classifier = AFDClassifier(load_backbone(MINIATURE, "none"), None).eval()
    evaluator = Evaluator(classifier, device=CPU, precision=torch.float32)
    pixels, dct = inputs(0)
    found = evaluator.measure(pixels, dct, evaluator.clean_stem(pixels), torch.full((4,), 10.0))
    assert found.drift_angle_deg.tolist() == found.true_angle_deg.tolist() == [0] * 4
    assert np.isnan(found.flip_probability).all()
    np.testing.assert_array_equal(found.afd_top, found.direct_top)
    assert found.afd_confidence == pytest.approx(found.direct_confidence)


def outcome(first: int, count: int) -> Outcome:
    numbers = np.arange(first, first + count, dtype=np.float32)
    top = np.stack([numbers, numbers + 1], axis=1).astype(np.int64)
    return Outcome(top, top + 1, *(numbers + k for k in range(5)))


def test_a_table_holds_every_batch_and_none_of_its_arrays() -> None:
    """Kept among the batches' large tensors, small arrays would cost the heap they lie in."""
    table = OutcomeTable(10)
    came = []
    for first, count in ((0, 3), (3, 0), (3, 4)):  # of the second batch no image decodes
        batch = {"clean": outcome(first, count), "q10": outcome(first + 100, count)}
        table.add(batch if count else {})
        came += [weakref.ref(array) for part in batch.values() for array in part.arrays]
        del batch
    assert not any(array() is not None for array in came)
    found = table.outcomes()
    for condition, first in (("clean", 0), ("q10", 100)):
        for array, expected in zip(found[condition].arrays, outcome(first, 7).arrays, strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
