"""Settings that jobs share, and those of `afd label`: frozen dataclasses, one field per setting.

A field's help text is printed by `--help` and repeated in conf/*.yaml. Names contain the units.
`jobs.command_line` makes a parser from a class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from afd_model import WEIGHT_SUFFIXES
from jobs.checked_settings import CheckedSettings, flag_of
from pipeline.inputs.local_files import absolute_pattern
from pipeline.stores.locations import refuse_credentials

REQUIRED = MISSING
# Settings that name a file, and the words that mean something else, whatever files there are.
_PATHS_OR_WORDS = {
    "weights": ("default", "none"),
    "afd": ("default", "none", "untrained"),
    "class_names": ("auto", "none"),
}


def setting(default: Any, description: str, *, positional: bool = False) -> Any:
    """A dataclass field with its help text. positional: given by position instead of by a flag."""
    metadata = {"help": description, "positional": positional}
    if default is REQUIRED:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def device_setting() -> Any:
    """As `precision_setting` and `address_setting`, a setting that several jobs have."""
    return setting("auto", "auto: CUDA if there is a GPU, else the CPU")


def precision_setting() -> Any:
    return setting(
        "auto", "precision of the model; auto: fp16 on CUDA, bf16 on CPUs that have it, else fp32"
    )


def address_setting() -> Any:
    return setting(
        "local",
        "Ray cluster: local starts one on this machine, auto joins the running one; or an address"
        " such as HOST:6379",
    )


def require_positive(settings: Any, *names: str) -> None:
    """Raise ValueError for the first of these settings that is 0 or less, or NaN."""
    for name, value in _numbers(settings, names):
        if not value > 0:
            way_out = ": use at least 1" if isinstance(value, int) else ""
            raise ValueError(f"{flag_of(name)} {value} is not positive{way_out}")


def require_not_negative(settings: Any, *names: str) -> None:
    for name, value in _numbers(settings, names):
        if not value >= 0:
            raise ValueError(f"{flag_of(name)} {value} is negative: use 0 or more")


def require_between(settings: Any, least: int, most: int, *names: str) -> None:
    for name, value in _numbers(settings, names):
        if not least <= value <= most:
            raise ValueError(f"{flag_of(name)} {value} is not between {least} and {most}")


def _numbers(settings: Any, names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """(name, value) of each number in these settings; words such as "auto" are left out."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, str):
                yield name, number


@dataclass(frozen=True, kw_only=True)
class CollectionSettings(CheckedSettings):
    """The input and the output of a job.

    MAY_CHANGE: the settings that may differ when an output is continued, by the jobs that can.
    """

    MAY_CHANGE: ClassVar[frozenset[str]]

    input: str = setting(
        REQUIRED,
        "folder (recursive), glob, tar or Parquet file of images, manifest (a list of any of these"
        " as text, CSV or Parquet) or one image, on disk or on s3://, gs://, hf:// or https://",
        positional=True,
    )
    output: str = setting(
        REQUIRED,
        "output folder; repeating the command continues the run in it. `afd label` also takes"
        " s3://BUCKET/KEY and gs://BUCKET/KEY",
    )

    @property
    def content_settings(self) -> dict[str, Any]:
        """The settings that decide what a row, a file or the weights of the output are.

        A continued run must have the same.
        """
        return {name: value for name, value in asdict(self).items() if name not in self.MAY_CHANGE}


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(CheckedSettings):
    """The classifier, and the layer that the AFD-Module enhances."""

    backbone: str = setting(
        "resnet50",
        "classifier: a torchvision name, or timm:NAME such as timm:tf_efficientnet_lite0",
    )
    weights: str = setting(
        "default",
        "weights of the classifier: default, a torchvision weights name, a local file, or none"
        " (random)",
    )
    stem_layer: str = setting(
        "auto",
        "layer whose output the AFD-Module enhances (dotted path); auto: the one that is known for"
        " the backbone's family",
    )


@dataclass(frozen=True, kw_only=True)
class ClassNamesSettings(CheckedSettings):
    """The names of the classes, for the jobs that show them."""

    class_names: str = setting(
        "auto",
        "text file with one name per class, in the order of the classifier's outputs (a blank line:"
        " no name); auto: ImageNet's names if there are 1000 classes; none: no names",
    )


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(BackboneSettings, CollectionSettings):
    """What label, train and evaluate have in common: input, output and backbone."""

    def located(self) -> Self:
        """The same settings with absolute paths, because a worker may run in another folder.

        Raises ValueError when a file of weights or names is missing, or when the input holds
        credentials.
        """
        refuse_credentials(self.input)  # before they could get into a file or a message
        paths = {"input": self.input, "output": self.output}
        for name, words in _PATHS_OR_WORDS.items():
            value = getattr(self, name, words[0])
            if value in words:
                continue
            if os.path.isfile(value):
                paths[name] = value
            elif name != "weights" or os.sep in value or value.endswith(WEIGHT_SUFFIXES):
                known = ", ".join(words)
                raise ValueError(f"{flag_of(name)} {value!r}: no such file, and none of {known}")
        absolute: dict[str, Any] = {name: absolute_pattern(path) for name, path in paths.items()}
        return replace(self, **absolute)


@dataclass(frozen=True, kw_only=True)
class LabelSettings(ClassNamesSettings, ClassifierSettings):
    """Label every image of a collection and write one Parquet row for each."""

    MAY_CHANGE = frozenset(
        {
            *("output", "attempts_per_shard", "device", "engine", "batch_size", "workers"),
            *("workers_per_gpu", "max_workers", "cpus_per_worker", "read_threads"),
            *("prefetch_batches", "hw_decoder_load", "address", "dry_run", "verify", "progress"),
            *("log_format", "log_level"),
        }
    )

    afd: str = setting(
        "default",
        "AFD-Module: default (the shipped checkpoint if there is one, else none), none, a"
        " checkpoint file, or untrained (the identity, to measure what it costs)",
    )
    top_k: int = setting(5, "number of most probable classes kept for each image")

    resize: int | Literal["auto", "none"] = setting(
        "auto",
        "shorter side after resizing, pixels; auto: the backbone's preset; none: no resizing, for"
        " images that are already at the model's scale",
    )
    crop: int | Literal["auto"] = setting(
        "auto",
        "side of the centre crop, pixels; auto: the backbone's preset. An AFD-Module needs a"
        " multiple of 8; auto is then the nearest one",
    )

    images_per_shard: int | Literal["auto"] = setting(
        "auto",
        "images per shard, which is the unit of work, retry and commit; auto: 100 to 2000,"
        " depending on the size of the collection. An archive shares no shard with other files",
    )
    attempts_per_shard: int = setting(
        3,
        "how often a shard is tried before it is reported as failed; the run goes on with the"
        " others",
    )

    max_pixels: int = setting(
        100_000_000,
        "images with more pixels (width x height) are rejected before memory is allocated for them",
    )
    integrity: Literal["off", "fast", "full"] = setting(
        "fast",
        "search for silent corruption: off: none, so that a truncated file is ok; fast finds"
        " truncation, holes and broken markers; full also decodes every JPEG a second time,"
        " strictly, and finds more of the flipped bits",
    )

    device: Literal["auto", "cuda", "cpu"] = device_setting()
    precision: Literal["auto", "fp16", "bf16", "fp32"] = precision_setting()
    engine: Literal["auto", "torch", "inductor", "openvino"] = setting(
        "auto",
        "what runs the model; inductor (CUDA): starts 15 s later, then runs twice as fast;"
        " openvino (CPU, needs the extra): starts 3 s later, then runs 1.1 to 1.8 times as fast;"
        " auto: on CUDA inductor from 25,000 images per worker, on a CPU openvino, if installed,"
        " from 10,000 images per worker; else torch",
    )
    batch_size: int | Literal["auto"] = setting(
        "auto",
        "images per batch of the model; auto: 32 on a CPU; on CUDA 256, or what fits when four"
        " workers share the GPU",
    )
    workers: int | Literal["auto"] = setting(
        "auto",
        "Ray worker processes; auto: up to four per GPU (see --workers-per-gpu), without GPUs one"
        " per CPU core; 0: label in this process, without Ray, on one GPU or all cores; the first"
        " labels appear sooner",
    )
    workers_per_gpu: int | Literal["auto"] = setting(
        "auto",
        "workers that share a GPU; auto: 4, or fewer so that each has two CPU cores. While one"
        " waits for the largest image of its batch to be decoded, the others use the GPU",
    )
    max_workers: int | Literal["none"] = setting(
        "none",
        "for an autoscaling cluster: start with --workers (auto: 1) and grow to this many; workers"
        " that fit on no node yet wait for a new one",
    )
    cpus_per_worker: int | Literal["auto"] = setting(
        "auto",
        "CPU cores (threads of the model and of the decoder) per worker; auto: 1 without GPUs,"
        " else a node's cores divided among its workers",
    )
    read_threads: int = setting(
        4, "threads that read and screen files ahead, for each of a worker's two shards"
    )
    prefetch_batches: int = setting(2, "batches decoded ahead of the model, per worker")
    hw_decoder_load: float = setting(
        0.65, "share of the JPEGs given to the GPU's hardware decoder, 0 to 1; CUDA only"
    )

    address: str = address_setting()
    dry_run: bool = setting(
        False,
        "label nothing; print the number of images, bytes, shards and workers, and an estimate of"
        " the run time from a short probe in this process",
    )
    verify: bool = setting(
        False, "first read all parts of an earlier run in full, and label damaged ones again"
    )
    progress: Literal["auto", "bar", "plain", "off"] = setting(
        "auto", "auto: a live bar on a terminal, plain lines elsewhere"
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "format of the lines on stderr; json: one object per line, with the numbers as fields",
    )
    log_level: Literal["info", "debug"] = setting("info", "debug adds a line for each shard")

    def check_values(self) -> None:
        require_positive(
            self,
            *("top_k", "resize", "crop", "images_per_shard", "attempts_per_shard", "max_pixels"),
            *("batch_size", "workers_per_gpu", "max_workers", "cpus_per_worker", "read_threads"),
            "prefetch_batches",
        )
        require_not_negative(self, "workers")
        require_between(self, 0, 1, "hw_decoder_load")
        if self.workers == 0 and (self.address != "local" or self.max_workers != "none"):
            raise ValueError(
                "--workers 0 labels in this process: leave out --address and --max-workers"
            )
        pool = (self.workers, self.max_workers)
        if isinstance(pool[0], int) and isinstance(pool[1], int) and pool[0] > pool[1]:
            raise ValueError(f"--workers {pool[0]} is more than --max-workers {pool[1]}")
        if self.log_format == "json" and self.progress == "bar":
            raise ValueError("--progress bar draws on a terminal: with --log-format json use plain")
