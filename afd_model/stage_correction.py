"""What the AFD-Module corrects behind the stem: a narrow residual at the end of a later stage.

Not in Peng et al. 2024. What the stem's correction leaves of the drift shows in the later stages as
features that are there or not, and on their small grids it is cheap to take back.
"""

from typing import NamedTuple

from torch import Tensor, nn

from afd_model.fe_net import PReLU
from afd_model.stage_layers import layer_maps


class StagePlace(NamedTuple):
    """A layer of the backbone, its output's channels, and input pixels per position."""

    layer: str
    channels: int
    stride: int


class StageCorrection(nn.Module):
    """features + up(PReLU(down(features))), which starts as the identity.

    Args:
        channels: of the features.
        width: of the narrow ones between.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 1)
        self.act = PReLU(width)
        self.up = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, channels, h, w)."""
        return features + self.up(self.act(self.down(features)))


def late_stages(module: nn.Module, crop: int, count: int) -> list[StagePlace]:
    """The ends of a classifier's last stages, in order.

    A stage ends with the last layer of its resolution that holds two convolutions or more: what
    follows it (a widening before the pooling, a way to the next stage) has many channels and no
    depth to correct.

    Args:
        module: in eval mode; run once on an empty picture.
        crop: side of that picture, pixels.
        count: how many stages at most.
    """
    places: dict[int, StagePlace] = {}
    for path, shape in layer_maps(module, crop).items():
        layer = module.get_submodule(path)
        convolutions = sum(isinstance(m, nn.Conv2d) for m in layer.modules())
        if convolutions >= 2 and shape[2] == shape[3]:
            places[shape[2]] = StagePlace(path, shape[1], round(crop / shape[2]))
    return list(places.values())[-count:] if count else []
