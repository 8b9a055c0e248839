"""What a training run prepares from its settings: window, images, held-out images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import MINIATURE
from training_runs import make_collection

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.checkpoint import save_checkpoint
from jobs.train_settings import TrainSettings
from jobs.training.worker import prepare

SMALL = TrainSettings(input="x", output="x", backbone="mobilenet_v3_small", weights="none")
CPU = torch.device("cpu")


def test_a_smaller_crop_keeps_the_presets_share_of_the_picture(tmp_path: Path) -> None:
    settings = replace(SMALL, input=str(make_collection(tmp_path)), crop=56)
    geometry = prepare(settings, CPU).geometry
    assert (geometry.resize, geometry.crop) == (64, 56)


def test_the_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    collection = str(make_collection(tmp_path))
    settings = replace(SMALL, input=collection, backbone=MINIATURE, crop=64)
    weights = [
        torch.cat([p.detach().ravel() for p in prepare(seeded, CPU).afd.parameters()])
        for seeded in (settings, replace(settings, seed=1), settings)
    ]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_what_a_run_writes_among_its_images_is_not_trained_on(tmp_path: Path) -> None:
    make_collection(tmp_path)
    settings = replace(SMALL, input=str(tmp_path), output=str(tmp_path / "run"))
    first = prepare(settings, CPU)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.pt").touch()
    resumed = prepare(settings, CPU)
    assert (resumed.training, resumed.held_out) == (first.training, first.held_out)
    with pytest.raises(ValueError, match=r"is the input's own: choose another --output"):
        prepare(replace(settings, output=str(tmp_path)), CPU)


@pytest.mark.parametrize(("images", "held_out"), [(2, 1), (300, 60), (1500, 264)])
def test_small_collections_keep_most_images_for_training(
    tmp_path: Path, images: int, held_out: int
) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_text("0.jpg\n" * images)
    ready = prepare(replace(SMALL, input=str(manifest)), CPU)
    assert (len(ready.training), len(ready.held_out)) == (images - held_out, held_out)


def test_a_light_checkpoint_keeps_its_number_of_blocks(tmp_path: Path) -> None:
    """`light` had three of them before it had one."""
    backbone = load_backbone(MINIATURE, "none")
    path = tmp_path / "afd.safetensors"
    save_checkpoint(path, AFDModule(config_for(backbone, "light", depth=3)), backbone)
    miniature = replace(SMALL, input=str(make_collection(tmp_path / "photos")), backbone=MINIATURE)
    ready = prepare(replace(miniature, afd=str(path), crop=64), CPU)
    assert ready.afd.config.depth == 3
    assert prepare(replace(miniature, crop=64), CPU).afd.config.depth == 1
