"""Corrections behind the stem: a bottleneck residual at the end of each of the last stages.

Not in Peng et al. 2024. The drift that remains after the stem's correction appears in later stages
as features that are detected or missed; on their small grids a correction is cheap.
"""

from typing import NamedTuple

from torch import Tensor, nn

from afd_model.fe_net import PReLU
from afd_model.layer_shapes import shapes_behind


class StagePlace(NamedTuple):
    """Dotted path of a layer of the backbone, and its output's channels and stride in pixels."""

    layer: str
    channels: int
    stride: int


class StageCorrection(nn.Module):
    """features + up(PReLU(down(features))); starts as the identity.

    Args:
        channels: of the features.
        width: channels of the bottleneck.
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


def last_stages(module: nn.Module, stem_layer: str, crop: int, count: int) -> list[StagePlace]:
    """The last layers of the last stages behind a classifier's stem, in order of execution.

    A stage ends at the last layer of its resolution with at least two convolutions. Layers with one
    (the head's 1x1 convolution before the pooling, a transition to the next stage) have many
    channels, which would make a correction expensive, and no depth.

    Args:
        module: the classifier, in eval mode.
        stem_layer: dotted path of its stem.
        crop: side of the input, pixels.
        count: how many stages at most.
    """
    if not count:
        return []
    places: dict[int, StagePlace] = {}
    for path, shape in shapes_behind(module, stem_layer, crop).items():
        layer = module.get_submodule(path)
        convolutions = sum(isinstance(m, nn.Conv2d) for m in layer.modules())
        if convolutions >= 2 and shape[2] == shape[3]:
            places[shape[2]] = StagePlace(path, shape[1], round(crop / shape[2]))
    return list(places.values())[-count:]
