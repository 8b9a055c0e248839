"""The number of a classifier's classes, and what they are called."""

from pathlib import Path

from torch import nn

from afd_model.weight_files import IMAGENET_CLASSES


def imagenet_names() -> tuple[str, ...]:
    """ImageNet-1k's classes in words: WordNet's lemmas, "tench, Tinca tinca"."""
    # Imported here: it takes half a second, and most torchvision models do without.
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(k) for k in range(IMAGENET_CLASSES))


def imagenet_ids() -> tuple[str, ...]:
    """ImageNet-1k's classes as WordNet ids, "n01440764"."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_label_name(k) for k in range(IMAGENET_CLASSES))


def read_class_names(path: str, count: int) -> tuple[str, ...]:
    """Class names from a UTF-8 text file with one name per line, in the order of the classes.

    A blank line is a class without a name, ""; those after the last class do not count.

    Raises:
        ValueError: no such file, not UTF-8, or not `count` lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise ValueError(f"cannot read the class names in {path!r}: {reason}") from error
    names = [line.strip() for line in text.removesuffix("\n").split("\n")]
    while len(names) > count and not names[-1]:
        names.pop()
    if len(names) != count:
        raise ValueError(
            f"{path!r} names {len(names)} classes, but the classifier has {count}: it takes one"
            " line for each, in the order of its outputs"
        )
    return tuple(names)


def class_count(module: nn.Module) -> int:
    """The number of classes: the rows of the classifier's last weight matrix."""
    return [p.shape[0] for p in module.parameters() if p.ndim >= 2][-1]
