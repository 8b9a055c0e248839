"""Where a backbone can be watched behind its stem: the last layer of each spatial resolution."""

from torch import Tensor, nn

from afd_model.classifier import AFDClassifier
from afd_model.stage_layers import layer_maps
from afd_model.stem import output_shape


def find_stages(classifier: AFDClassifier, crop: int, count: int) -> tuple[str, ...]:
    """Dotted paths, in the backbone, of the stages that follow the stem.

    A stage ends where the resolution drops: at the last of the backbone's top-level layers that
    gives that resolution. What gives the stem's own resolution is left out: the stem's features
    stand for it.

    Args:
        classifier: in its own dtype and on its device; run once on an empty picture.
        crop: side of that picture in pixels.
        count: how many stages at most, the first ones; a small backbone may have fewer.
    """
    sizes = {path: shape[2] for path, shape in layer_maps(classifier.backbone, crop).items()}
    stem_size = output_shape(classifier.backbone, classifier.stem_layer, crop)[2]
    last_of_size = {size: path for path, size in sizes.items() if 1 < size < stem_size}
    return tuple(last_of_size.values())[:count]


class StageTaps:
    """Keeps the outputs of the stages of a classifier while it runs.

    One instance serves one thread; read the features after each run.
    """

    def __init__(self, classifier: AFDClassifier, stages: tuple[str, ...]) -> None:
        self._features: dict[str, Tensor] = {}
        self._stages = stages
        for path in stages:
            layer = classifier.backbone.get_submodule(path)
            layer.register_forward_hook(
                lambda _module, _inputs, output, path=path: self._features.update({path: output})
            )

    def take(self) -> list[Tensor]:
        """The stages' features of the last run, in order, (B, C, h, w) each; forgotten here."""
        taken = [self._features[path] for path in self._stages]
        self._features.clear()
        return taken


def head_path(model: nn.Module) -> str | None:
    """Where a classifier's last linear layer is, a dotted path; None: it has none."""
    linears = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    return linears[-1] if linears else None


class EmbeddingTap:
    """Keeps what a classifier's last linear layer is given, (B, D), while it runs.

    One instance serves one thread; read the embedding after each run.

    Raises:
        ValueError: the classifier has no linear layer.
    """

    def __init__(self, classifier: AFDClassifier) -> None:
        path = head_path(classifier.backbone)
        if path is None:
            raise ValueError("the backbone has no linear layer to take an embedding from")
        self._embedding: Tensor | None = None
        classifier.backbone.get_submodule(path).register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._embedding = inputs[0]

    def take(self) -> Tensor | None:
        """The embedding of the last run; forgotten here."""
        taken, self._embedding = self._embedding, None
        return taken
