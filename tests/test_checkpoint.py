"""AFD checkpoints: a round trip, and what is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from afd_model import checkpoint
from afd_model.afd_config import AFDConfig
from afd_model.afd_module import AFDModule
from afd_model.backbones import Backbone, Preprocessing
from afd_model.checkpoint import load_checkpoint, resolve_afd, save_checkpoint
from afd_model.flip_model import FLIP_FEATURES, FlipModel
from afd_model.stage_correction import StagePlace

COUNT = len(FLIP_FEATURES)
FLIP = FlipModel(0.5, tuple(0.1 * k for k in range(COUNT)), (1.0,) * COUNT, (2.0,) * COUNT)
BACKBONE = Backbone(
    name="timm:toy",
    module=torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
    stem_layer="",
    stem_channels=8,
    stem_stride=2,
    stem_range=(0.0, None),
    preprocessing=Preprocessing(256, 224, "bilinear", (0.5,) * 3, (0.5,) * 3),
    class_names=None,
    is_imagenet=False,
    weights="default",
    weights_sha256="ab" * 32,
)
CONFIG = AFDConfig(stem_channels=8, stem_stride=2, width=4, fde_hidden=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "afd.safetensors"
    module = AFDModule(CONFIG)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    save_checkpoint(path, module, BACKBONE, training={"steps": 3}, flip_model=FLIP)
    return path


def test_a_round_trip_keeps_weights_and_facts(tmp_path: Path) -> None:
    path = tmp_path / "afd.safetensors"
    module = AFDModule(CONFIG)
    written = save_checkpoint(path, module, BACKBONE, training={"steps": 3}, flip_model=FLIP)
    loaded, facts = load_checkpoint(path, BACKBONE)
    assert facts == written
    assert facts.config == CONFIG
    assert facts.flip_model == FLIP
    assert facts.training == {"steps": 3}
    assert not loaded.training
    for (key, a), b in zip(module.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert [p.name for p in tmp_path.iterdir()] == ["afd.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet18"}, "another backbone: timm:toy, not resnet18"),
        ({"stem_layer": "conv2"}, "another stem layer"),
        ({"weights_sha256": "cd" * 32}, "another backbone's weights"),
        ({"weights_sha256": None}, "another backbone's weights"),
    ],
)
def test_another_backbone_is_refused(saved: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(saved, replace(BACKBONE, **changes))


def test_damaged_files_are_refused_in_one_line(saved: Path) -> None:
    whole = saved.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"PK\x03\x04" * 99):
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot read AFD checkpoint") as caught:
            load_checkpoint(saved, BACKBONE)
        assert "\n" not in str(caught.value)


def rewrite(path: Path, change_facts: object = None, **tensors: torch.Tensor | None) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {k: v for k, v in (state | tensors).items() if v is not None}
    if isinstance(change_facts, dict):
        facts = json.loads(metadata[checkpoint.METADATA_KEY]) | change_facts
        metadata = {checkpoint.METADATA_KEY: json.dumps(facts)}
    elif change_facts == "none":
        metadata = {}
    safetensors.torch.save_file(state, path, metadata)


def test_others_may_read_it_as_they_may_any_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, r"tensor fde_net\.pooled\.bias is missing"),
        (torch.zeros(2), r"tensor fde_net\.pooled\.bias is \(2,\), its configuration says \(8,\)"),
        (torch.full((8,), float("nan")), "holds NaN"),
    ],
)
def test_tensors_must_be_the_configurations(
    saved: Path, tensor: torch.Tensor | None, message: str
) -> None:
    rewrite(saved, **{"fde_net.pooled.bias": tensor})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(saved, BACKBONE)


def test_a_surplus_tensor_is_refused(saved: Path) -> None:
    rewrite(saved, extra=torch.zeros(1))
    with pytest.raises(ValueError, match="tensor extra is"):
        load_checkpoint(saved, BACKBONE)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("none", "not an AFD checkpoint"),
        ({"format": 99}, "format 99"),
        ({"config": {"stem_channels": 8, "breadth": 1}}, "unknown fields: breadth"),
        (
            {"flip_model": {"features": FLIP_FEATURES, "intercept": 0.0}},
            "invalid metadata",
        ),
        ({"flip_model": 0}, "invalid metadata"),
        ({"flip_model": {"features": FLIP_FEATURES, **asdict(FLIP), "intercept": None}}, "finite"),
        (
            {"flip_model": {"features": FLIP_FEATURES, **asdict(FLIP), "scales": (0.0,) * COUNT}},
            "scales are positive",
        ),
        ({"config": []}, "invalid metadata"),
        ({"config": {**asdict(CONFIG), "levels": None}}, "levels is a whole number >= 0"),
        ({"config": {**asdict(CONFIG), "output_min": [1]}}, r"a finite number or null, not \(1,\)"),
        ({"config": {**asdict(CONFIG), "width": 10**12}}, "invalid configuration"),
        ({"config": {**asdict(CONFIG), "width": 10**6}}, "its configuration says"),
        ({"config": {**asdict(CONFIG), "depth": 10**9}}, r"says 1\d{9} layers, but it holds \d+"),
        ({"config": {**asdict(CONFIG), "levels": 10**9}}, "layers, but it holds"),
        ({"training": None}, "training is an object, not None"),
    ],
)
def test_facts_that_do_not_read_are_refused(saved: Path, facts: object, message: str) -> None:
    rewrite(saved, facts)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(saved, BACKBONE)


def test_facts_nested_without_end_are_refused(saved: Path) -> None:
    safetensors.torch.save_file({}, saved, {checkpoint.METADATA_KEY: "[" * 100_000})
    with pytest.raises(ValueError, match="invalid metadata"):
        load_checkpoint(saved, BACKBONE)


def test_a_correction_of_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "afd.safetensors"
    config = replace(CONFIG, stages=(StagePlace("layer9", 8, 4),))
    save_checkpoint(path, AFDModule(config), BACKBONE)
    with pytest.raises(ValueError, match="corrects the layer 'layer9', which timm:toy does not"):
        load_checkpoint(path, BACKBONE)


def test_a_flip_model_of_other_features_is_left_out(saved: Path) -> None:
    rewrite(saved, {"flip_model": {"features": ["mood"], "intercept": 0.0, "coefficients": [1.0]}})
    facts = load_checkpoint(saved, BACKBONE)[1]
    assert facts.flip_model is None
    assert f"{saved} was trained by another release" in (facts.notice or "")
    rewrite(saved, {"flip_model": None})
    assert load_checkpoint(saved, BACKBONE)[1].notice is None


def test_a_fused_module_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fused"):
        save_checkpoint(tmp_path / "x.safetensors", AFDModule(CONFIG).fuse(), BACKBONE)


def test_resolving(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_afd("none", BACKBONE) == (None, None)
    module, facts = resolve_afd(str(saved), BACKBONE)
    assert module is not None
    assert facts is not None
    with pytest.raises(ValueError, match=r"AFD checkpoint not found: nowhere\.safetensors"):
        resolve_afd("nowhere.safetensors", BACKBONE)

    untrained, facts = resolve_afd("default", BACKBONE)
    assert untrained is not None
    assert untrained.is_identity
    assert facts is None

    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    saved.rename(tmp_path / "timm-toy.safetensors")
    shipped, facts = resolve_afd("default", BACKBONE)
    assert shipped is not None
    assert not shipped.is_identity
    assert facts is not None
    other = replace(BACKBONE, weights_sha256="cd" * 32)
    assert resolve_afd("default", other)[1] is None
