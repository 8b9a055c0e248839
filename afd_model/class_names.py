"""The number of a classifier's classes, and what they are called."""

from pathlib import Path

from torch import nn

IMAGENET_CLASSES = 1000


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


def is_class_count(outputs: int) -> bool:
    """Whether weights that timm publishes classify, by the number of their model's outputs.

    Its classifiers are of ImageNet's 1,000 classes or of 10,000 and more. Image-text models (CLIP)
    end in a linear layer too, which gives an embedding of 384 to 1,280 numbers; self-supervised
    ones (DINO, MAE) end before it, and have 0. timm says nothing else that would tell them apart.
    """
    return outputs == IMAGENET_CLASSES or outputs >= 10_000


def check_timm_classifies(name: str) -> None:
    """Checks that published weights of timm classify, without downloading them.

    The largest number of an embedding would be written as a label.

    Args:
        name: as timm has it, with or without a tag.

    Raises:
        ValueError: they do not; names weights of the same architecture that do, if there are any.
    """
    import timm

    if is_class_count(_published_outputs(name)):
        return
    architecture = name.partition(".")[0]
    others = (architecture, *timm.list_pretrained(f"{architecture}.*"))
    counts = {other: _published_outputs(other) for other in others}
    classifying = [other for other, count in counts.items() if is_class_count(count)]
    # The fewest are ImageNet-1k's, whose names are known; of those, timm's default comes first.
    best = min(classifying, key=counts.__getitem__, default=None)
    way_out = f"timm:{best}, which classifies, or " if best else ""
    raise ValueError(
        f"the published weights of timm:{name} have no classifier and give an embedding:"
        f" use {way_out}--weights FILE for weights that you fine-tuned"
    )


def _published_outputs(name: str) -> int:
    import timm

    config = timm.get_pretrained_cfg(name)
    return config.num_classes if config is not None else 0


def class_count(module: nn.Module) -> int:
    """The number of classes: the rows of the classifier's last weight matrix."""
    return [p.shape[0] for p in module.parameters() if p.ndim >= 2][-1]
