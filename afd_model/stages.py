"""Where a backbone can be watched behind its stem: the last layer of each spatial resolution."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from afd_model.classifier import AFDClassifier


def find_stages(classifier: AFDClassifier, crop: int, count: int) -> tuple[str, ...]:
    """Dotted paths, in the backbone, of the stages that follow the stem.

    A stage ends where the resolution drops: at the last of the backbone's top-level layers
    (`nn.Sequential`s among them opened) that gives that resolution. What gives the stem's own
    resolution is left out: the stem's features stand for it.

    Args:
        classifier: in its own dtype and on its device; run once on an empty picture.
        crop: side of that picture in pixels.
        count: how many stages at most, the first ones; a small backbone may have fewer.
    """
    layers = dict(_top_layers(classifier.backbone))
    sizes: dict[str, int] = {}

    def note(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sizes[path] = output.shape[2]

    parameter = next(classifier.backbone.parameters())
    picture = torch.zeros(1, 3, crop, crop, dtype=parameter.dtype, device=parameter.device)
    with _watched(layers, note), torch.no_grad():
        stem_size = classifier.bare(picture).before.shape[2]
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


def _top_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential):
            for inner_name, inner in child.named_children():
                yield f"{name}.{inner_name}", inner
        else:
            yield name, child


@contextmanager
def _watched(layers: dict[str, nn.Module], note: Callable[[str, object], None]) -> Iterator[None]:
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, path=path: note(path, output))
        for path, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
