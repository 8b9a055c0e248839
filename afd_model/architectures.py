"""The classifiers of torchvision and timm by name, without weights."""

import difflib
from contextlib import suppress
from typing import Any

import torchvision
from torch import nn
from torchvision.models import get_model_builder, list_models

from afd_model.class_names import IMAGENET_CLASSES

TIMM_PREFIX = "timm:"


def check_name(name: str) -> None:
    """Checks that a backbone exists, without building it.

    Raises:
        ValueError: it does not; suggests the most similar name.
    """
    if name.startswith(TIMM_PREFIX):
        import timm  # here: it takes half a second, and torchvision's models do without

        plain = name.removeprefix(TIMM_PREFIX)
        with suppress(RuntimeError):  # the model exists, but not its tag
            # None also for the names of timm's first releases, which it would still build.
            if timm.get_pretrained_cfg(plain) is not None:
                return
        known = timm.list_models() + timm.list_pretrained()
        near = [TIMM_PREFIX + n for n in difflib.get_close_matches(plain, known, n=1)]
    else:
        known = list_models(module=torchvision.models)
        if name in known:
            return
        import timm

        candidates = known + [TIMM_PREFIX + n for n in timm.list_models()]
        near = difflib.get_close_matches(name, candidates, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see torchvision.models and timm.list_models()"
    raise ValueError(f"unknown backbone {name!r}: {hint}")


def build(name: str, classes: int = IMAGENET_CLASSES) -> nn.Module:
    """The classifier with random weights.

    Raises:
        ValueError: timm has the architecture without a classifier only.
    """
    if name.startswith(TIMM_PREFIX):
        import timm

        module = timm.create_model(name.removeprefix(TIMM_PREFIX), num_classes=classes)
        if getattr(module, "num_classes", classes) == 0:
            raise ValueError(f"{name} has no classifier: it is an encoder, whatever its weights")
        return module
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # torchvision sets this when it loads the published weights, which need it.
        extra = {"transform_input": True, "init_weights": True}
    return get_model_builder(name)(weights=None, num_classes=classes, **extra)


def family_of(name: str, module: nn.Module) -> tuple[str, str]:
    """The library of a classifier and the name of its class."""
    library = "timm" if name.startswith(TIMM_PREFIX) else "torchvision"
    return library, type(module).__name__
