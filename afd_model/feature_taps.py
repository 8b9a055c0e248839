"""Intermediate features of a backbone: where its stages end, and hooks that keep their outputs."""

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from afd_model.classifier import AFDClassifier
from afd_model.layer_shapes import shapes_behind


def stages_after_stem(classifier: AFDClassifier, crop: int, count: int) -> tuple[str, ...]:
    """Dotted paths, in the backbone, of the last layers of the stages behind the stem.

    A stage is the run of top-level layers with the same output resolution.

    Args:
        classifier: in eval mode.
        crop: side of the input, pixels.
        count: the first `count` stages, or fewer if the backbone has fewer.
    """
    shapes = shapes_behind(classifier.backbone, classifier.stem_layer, crop)
    last_of_size = {shape[2]: path for path, shape in shapes.items() if shape[2] > 1}
    return tuple(last_of_size.values())[:count]


class StageTap:
    """Forward hooks that keep the outputs of a classifier's stages; not thread-safe."""

    def __init__(self, classifier: AFDClassifier, stages: tuple[str, ...]) -> None:
        self._features: dict[str, Tensor] = {}
        self._stages = stages
        for path in stages:
            layer = classifier.backbone.get_submodule(path)
            layer.register_forward_hook(
                lambda _module, _inputs, output, path=path: self._features.update({path: output})
            )

    def take(self) -> list[Tensor]:
        """The stages' outputs in the last forward pass, (B, C, h, w) each; clears them."""
        taken = [self._features[path] for path in self._stages]
        self._features.clear()
        return taken


def head_path(model: nn.Module) -> str | None:
    """Dotted path of a classifier's last linear layer; None if it has none."""
    linears = [
        name
        for name, layer in model.named_modules()
        # timm derives heads of its own from `nn.Linear`. `nn.MultiheadAttention` derives its output
        # projection, of which it uses the weights alone: no hook or replacement would be called.
        if isinstance(layer, nn.Linear) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    ]
    return linears[-1] if linears else None


class EmbeddingTap:
    """A forward hook that keeps the embedding: the input of the last linear layer, (B, D).

    Not thread-safe.

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
        """The embedding of the last forward pass; clears it."""
        taken, self._embedding = self._embedding, None
        return taken
