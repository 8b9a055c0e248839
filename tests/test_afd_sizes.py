"""The sizes keep their budgets, with and without corrections of the later stages."""

from functools import cache

import pytest
import torch
from untrained import backbone

from afd_model.afd_config import AFD_SIZES, AFDConfig, AFDSize
from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for, count_macs, count_parameters, module_macs


@cache
def config(name: str, size: AFDSize, stages: int = 0) -> AFDConfig:
    return config_for(backbone(name), size, corrected_stages=stages)


@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize("size", ["paper", "deep"])
def test_the_budget_on_resnet50(size: AFDSize, stages: int) -> None:
    within = config("resnet50", size, stages)
    assert len(within.stages) == stages
    assert count_parameters(AFDModule(within).fuse()) <= 200_000
    assert 100e6 < module_macs(within, 224) <= 600e6


def test_counting_against_the_arithmetic() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    assert count_parameters(layer) == 3 * 4 * 9 + 4
    assert count_macs(layer, torch.zeros(1, 3, 10, 10)) == 3 * 4 * 9 * 100


@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize(
    "name",
    # the last one's stem leaves too little for corrections of all three stages
    ["mobilenet_v3_small", "resnet50", "timm:tf_efficientnet_lite0", "regnet_y_400mf"],
)
def test_light_costs_a_tenth_of_the_backbone(name: str, stages: int) -> None:
    model = backbone(name)
    crop = model.preprocessing.crop
    whole = count_macs(model.module, torch.zeros(1, 3, crop, crop))
    assert module_macs(config(name, "light", stages), crop) <= 0.1 * whole


def test_the_papers_size_corrects_the_stem_alone_unless_it_is_told_otherwise() -> None:
    stages = {size: len(config_for(backbone("resnet18"), size).stages) for size in AFD_SIZES}
    assert stages == {"paper": 0, "light": 3, "deep": 3}
    assert not config_for(backbone("alexnet"), "light").stages  # it has none, and nothing is said


def test_corrections_are_counted_and_leave_the_stems_part_as_it_is() -> None:
    plain, corrected = config("resnet50", "light", 0), config("resnet50", "light", 3)
    width = corrected.stage_width
    assert corrected.width == plain.width
    places = [(place.channels, place.stride) for place in corrected.stages]
    assert places == [(512, 8), (1024, 16), (2048, 32)]
    macs = sum(2 * channels * width * (224 // stride) ** 2 for channels, stride in places)
    assert module_macs(corrected, 224) - module_macs(plain, 224) == macs
