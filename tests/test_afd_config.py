"""An AFD-Module's configuration: it survives its file, and what cannot be is refused."""

import json
from dataclasses import asdict, replace

import pytest

from afd_model.afd_config import AFDConfig, config_from_dict
from afd_model.stage_correction import StagePlace


def test_configuration_survives_json() -> None:
    plain = AFDConfig(stem_channels=8, stem_stride=2)
    stages = (StagePlace("layer3", 6, 16), StagePlace("layer4", 9, 32))
    for shape in (
        plain,
        replace(plain, size="light", reduction=2, levels=0, fdm_on="bottleneck"),
        replace(plain, size="deep", down_blocks=(1, 2), up_blocks=(1, 0), stages=stages),
    ):
        assert config_from_dict(json.loads(json.dumps(asdict(shape)))) == shape


def test_a_configuration_of_before_the_stages_reads() -> None:
    fields = asdict(AFDConfig(stem_channels=8, stem_stride=2))
    del fields["stages"], fields["stage_width"]
    assert config_from_dict(fields).stages == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_channels": 8, "stem_stride": 2, "breadth": 3}, "unknown fields: breadth"),
        ({"stem_channels": 8}, "incomplete"),
        ({"stem_channels": 8, "stem_stride": 2, "fdm": "depth"}, "unknown FDM kind 'depth'"),
        (
            {"stem_channels": 8, "stem_stride": 2, "dct_input": "wavelet"},
            "unknown DCT input 'wavelet'",
        ),
        (
            {"stem_channels": 8, "stem_stride": 2, "width": 0},
            "width is a whole number >= 1, not 0",
        ),
        (
            {"stem_channels": 8, "stem_stride": 2, "down_blocks": [1]},
            r"down_blocks is one number for each of the 2 levels, not \(1,\)",
        ),
        ({"stem_channels": 8, "stem_stride": 2, "size": "huge"}, "unknown AFD size 'huge'"),
        ({"stem_channels": 8, "stem_stride": 2, "stages": [["layer4", 6]]}, "incomplete"),
        (
            {"stem_channels": 8, "stem_stride": 2, "stage_width": 0},
            "stage_width is a whole number",
        ),
        ({"stem_channels": 8, "stem_stride": 2, "width": 4.5}, "width is a whole number"),
        ({"stem_channels": 8, "stem_stride": 2, "depth": "x"}, "depth is a whole number"),
        (
            {"stem_channels": 8, "stem_stride": 2, "up_blocks": [1, -1]},
            "up_blocks is a whole number >= 0, not -1",
        ),
        (
            {"stem_channels": 8, "stem_stride": 2, "up_blocks": 0},
            "up_blocks is one number",
        ),
        (
            {"stem_channels": 8, "stem_stride": 2, "output_max": float("nan")},
            "output_max is a finite number or null, not nan",
        ),
        (
            {"stem_channels": 8, "stem_stride": 2, "stages": [["layer4", -6, 32]]},
            "a stage's channels is a whole number >= 1, not -6",
        ),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_dict(fields)
