"""AFD checkpoints: one safetensors file with the weights and, as JSON metadata, facts about them.

Loading executes nothing in the file.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from afd_model.afd_config import AFDConfig, config_from_dict
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.atomic_file import atomic_write
from afd_model.backbones import Backbone
from afd_model.flip_model import FLIP_FEATURES, FlipModel

FORMAT = 1
METADATA_KEY = "afd_checkpoint"
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says about its weights.

    Attributes:
        config: the AFD-Module's architecture.
        backbone, backbone_sha256, stem_layer: of the `Backbone` it was trained on; the digest is
            `Backbone.weights_sha256`.
        training: command, data, settings and scores of the training job; JSON types.
        flip_model: None if none was fitted, or if `has_other_flip_model`.
        has_other_flip_model: whether one was fitted on features that this version does not compute.
        path, sha256: of the file; None before it is saved.
    """

    config: AFDConfig
    backbone: str
    backbone_sha256: str | None
    stem_layer: str
    training: dict[str, Any] = field(default_factory=dict)
    flip_model: FlipModel | None = None
    has_other_flip_model: bool = False
    path: str | None = None
    sha256: str | None = None

    @property
    def notice(self) -> str | None:
        """One line for the user about what this version does not read; else None."""
        if not self.has_other_flip_model:
            return None
        return (
            f"{self.path} was trained by another release, whose flip model this one cannot run:"
            " flip_probability is null; `afd train INPUT --afd FILE --max-steps 1 --start-share 1`"
            " fits a new one and keeps the weights"
        )


def save_checkpoint(
    path: str | Path,
    module: AFDModule,
    backbone: Backbone,
    *,
    training: dict[str, Any] | None = None,
    flip_model: FlipModel | None = None,
) -> CheckpointFacts:
    """Writes a checkpoint atomically; an existing file is replaced.

    Args:
        path: the file.
        module: not fused, since a fused module has lost its branches and cannot be trained further.
        backbone: that it was trained on.
        training, flip_model: see `CheckpointFacts`.

    Raises:
        ValueError: the module is fused.
    """
    if module.fde_net.fused:
        raise ValueError(f"cannot save {path}: the AFD-Module is fused; save it before fuse()")
    facts = CheckpointFacts(
        config=module.config,
        backbone=backbone.name,
        backbone_sha256=backbone.weights_sha256,
        stem_layer=backbone.stem_layer,
        training=training or {},
        flip_model=flip_model,
    )
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with atomic_write(path) as file:
        # Not save_file, which makes the file readable by its owner only.
        file.write_bytes(safetensors.torch.save(tensors, {METADATA_KEY: _to_json(facts)}))
    return replace(facts, path=str(path), sha256=_file_sha256(path))


def load_checkpoint(path: str | Path, backbone: Backbone) -> tuple[AFDModule, CheckpointFacts]:
    """Reads a checkpoint, and checks that it was trained for this backbone.

    Returns:
        The module, in eval mode and not fused, and its facts.

    Raises:
        ValueError: no such file; damaged, or not an AFD checkpoint; trained for another backbone,
            other weights or another stem layer; tensors that do not match its configuration.
    """
    facts, tensors = _read(path)
    _check_backbone(facts, backbone)
    return _built(facts, tensors), facts


def load_module(path: str | Path) -> tuple[AFDModule, CheckpointFacts]:
    """As `load_checkpoint`, without checking the backbone."""
    facts, tensors = _read(path)
    return _built(facts, tensors), facts


def resolve_afd(spec: str, backbone: Backbone) -> tuple[AFDModule | None, CheckpointFacts | None]:
    """The AFD-Module that the setting `--afd` names.

    Args:
        spec: "none"; "default": the checkpoint that ships for this backbone and these weights, or
            an untrained module (the identity) if none does; "untrained"; or a checkpoint file.

    Returns:
        The module, or None for "none"; its facts, or None if it is untrained.

    Raises:
        ValueError: see `load_checkpoint`.
    """
    if spec == "none":
        return None, None
    if spec not in ("default", "untrained"):
        return load_checkpoint(spec, backbone)
    shipped = shipped_checkpoint(backbone) if spec == "default" else None
    if shipped is not None:
        return load_checkpoint(shipped, backbone)
    return AFDModule(config_for(backbone)).eval(), None


def shipped_checkpoint(backbone: Backbone) -> Path | None:
    """The checkpoint that ships for this backbone, weights and stem layer; None if none does."""
    path = SHIPPED / f"{backbone.name.replace(':', '-')}.safetensors"
    if not path.is_file():
        return None
    facts, _ = _read(path)
    asked = (backbone.weights_sha256, backbone.stem_layer)
    return path if (facts.backbone_sha256, facts.stem_layer) == asked else None


def _read(path: str | Path) -> tuple[CheckpointFacts, dict[str, Tensor]]:
    if not Path(path).is_file():
        raise ValueError(
            f"AFD checkpoint not found: {path} (default, none, untrained, or a .safetensors file)"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot read AFD checkpoint {path}: truncated, or not safetensors ({error})"
        ) from error
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file, but not an AFD checkpoint")
    try:
        facts = _from_json(metadata[METADATA_KEY])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"AFD checkpoint {path}: invalid metadata ({error})") from error
    return replace(facts, path=str(path), sha256=_file_sha256(path)), tensors


def _built(facts: CheckpointFacts, tensors: dict[str, Tensor]) -> AFDModule:
    """The module with the tensors of the file, in eval mode."""
    path, config = facts.path, facts.config
    # Each has a tensor of its own; to make a billion of them would not end.
    num_layers = config.depth + config.levels + len(config.stages)
    num_layers += sum(config.down_blocks) + sum(config.up_blocks)
    if num_layers > len(tensors):
        raise ValueError(
            f"AFD checkpoint {path}: its configuration says {num_layers} layers, but it holds"
            f" {len(tensors)} tensors"
        )
    try:
        with torch.device("meta"):  # a damaged configuration may not fit in memory
            expected = {k: tuple(v.shape) for k, v in AFDModule(config).state_dict().items()}
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"AFD checkpoint {path}: invalid configuration ({reason})") from error
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ValueError(
                f"AFD checkpoint {path}: tensor {key} is {found.get(key, 'missing')}, "
                f"its configuration says {expected.get(key, 'there is none')}"
            )
    if broken := [key for key, value in tensors.items() if not value.isfinite().all()]:
        raise ValueError(f"AFD checkpoint {path}: tensor {broken[0]} holds NaN or infinity")
    module = AFDModule(config)
    module.load_state_dict(tensors)
    return module.eval()


def _check_backbone(facts: CheckpointFacts, backbone: Backbone) -> None:
    pairs = (
        ("backbone", facts.backbone, backbone.name),
        ("stem layer", facts.stem_layer, backbone.stem_layer),
        ("backbone's weights (SHA-256)", facts.backbone_sha256, backbone.weights_sha256),
    )
    for what, trained, given in pairs:
        if trained != given:
            raise ValueError(
                f"AFD checkpoint {facts.path} was trained for another {what}: "
                f"{trained}, not {given}"
            )
    layers = dict(backbone.module.named_modules())
    for place in facts.config.stages:
        if place.layer not in layers:
            raise ValueError(
                f"AFD checkpoint {facts.path} corrects the layer {place.layer!r}, which"
                f" {backbone.name} does not have"
            )


def _to_json(facts: CheckpointFacts) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "config": asdict(facts.config),
            "backbone": facts.backbone,
            "backbone_sha256": facts.backbone_sha256,
            "stem_layer": facts.stem_layer,
            "training": facts.training,
            "flip_model": _flip_to_dict(facts.flip_model),
        }
    )


def _flip_to_dict(model: FlipModel | None) -> dict[str, Any] | None:
    return None if model is None else {"features": FLIP_FEATURES, **asdict(model)}


def _flip_from_dict(fields: dict[str, Any] | None) -> FlipModel | None:
    """None also if the model needs features that this version does not compute."""
    if fields is None or tuple(fields.get("features", ())) != FLIP_FEATURES:
        return None
    lists = {key: tuple(fields[key]) for key in ("coefficients", "means", "scales")}
    return FlipModel(intercept=fields["intercept"], **lists)


def _from_json(text: str) -> CheckpointFacts:
    fields = json.loads(text)
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, this version reads {FORMAT}")
    if not isinstance(fields["training"], dict):
        raise ValueError(f"training is an object, not {fields['training']!r}")
    flip_model = _flip_from_dict(fields["flip_model"])
    return CheckpointFacts(
        config=config_from_dict(fields["config"]),
        backbone=fields["backbone"],
        backbone_sha256=fields["backbone_sha256"],
        stem_layer=fields["stem_layer"],
        training=fields["training"],
        flip_model=flip_model,
        has_other_flip_model=flip_model is None and fields["flip_model"] is not None,
    )


def _file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
