"""The AFD-Module and the classifiers that it plugs into, in plain PyTorch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afd_model.image_classifier import ImageClassifier, load_classifier

__all__ = ["ImageClassifier", "load_classifier"]

# Of files of weights. Here for the settings, which are read where PyTorch must not be imported.
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".tar")


def __getattr__(name: str) -> Any:
    """Imports the public names on first use: torchvision and timm take seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from afd_model import image_classifier

    return getattr(image_classifier, name)
