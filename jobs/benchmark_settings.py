"""The settings of `afd benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.checked_settings import flag_of
from jobs.settings import (
    BackboneSettings,
    device_setting,
    precision_setting,
    require_between,
    require_positive,
    setting,
)

OWN, TEMPORARY, NO_RECORD = "own", "temporary", "none"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(BackboneSettings):
    """Measure each stage, the whole job and the hardware's limit; prints one line of JSON."""

    input: str = setting(
        OWN,
        "images to measure with: folder, glob, tar, Parquet file or manifest; own: JPEGs that the"
        " benchmark makes itself",
        positional=True,
    )
    corpus: str = setting(
        TEMPORARY,
        "folder in which the benchmark's own images are kept for the next run, or temporary",
    )
    num_images: int | Literal["auto"] = setting(
        "auto",
        "number of images to make, or to take from the start of INPUT; auto: 500 on a CPU, 8000 on"
        " CUDA",
    )
    seed: int = setting(0, "random seed for the benchmark's own images")

    afd: str = setting(
        "default",
        "AFD-Module: default (the shipped checkpoint, or an untrained one, which costs as much),"
        " none, or a checkpoint file",
    )
    device: Literal["auto", "cuda", "cpu"] = device_setting()
    precision: Literal["auto", "fp16", "bf16", "fp32"] = precision_setting()
    engine: Literal["auto", "torch", "inductor", "openvino"] = setting(
        "auto", "what runs the model, as in the label job; auto: inductor on CUDA, torch elsewhere"
    )

    workers: tuple[int | Literal["auto"], ...] = setting(
        ("auto",),
        "worker processes; auto: on CUDA as many as share a GPU in the label job, else the number"
        " of CPU cores divided by --threads; several values are tried in turn, and the fastest is"
        " kept",
    )
    threads: tuple[int | Literal["auto"], ...] = setting(
        ("auto",),
        "threads of the decoder and of the model in each worker; auto: 1 on a CPU, a worker's"
        " share of the cores on CUDA; several values are tried in turn",
    )
    hw_decoder_load: tuple[float, ...] = setting(
        (0.65,),
        "share of the JPEGs given to the GPU's hardware decoder, 0 to 1; several values are tried"
        " in turn",
    )
    batch_size: tuple[int | Literal["auto"], ...] = setting(
        ("auto",),
        "images per batch of the model; auto: 32 on a CPU; on CUDA 256, or what fits when four"
        " workers share the GPU; several values are tried in turn",
    )
    read_threads: int = setting(4, "threads that read and screen files ahead, per worker")
    prefetch_batches: int = setting(2, "batches decoded ahead of the model, per worker")
    integrity: Literal["off", "fast", "full"] = setting(
        "fast", "search for silent corruption, as in the label job"
    )
    images_per_shard: int | Literal["auto"] = setting(
        "auto", "images per shard; auto: one shard per worker, or several of at most 2000 images"
    )

    rounds: int = setting(5, "number of measurements of everything, after one warm-up round")
    record: str = setting(NO_RECORD, "file to append the JSON line to, or none")

    def check_values(self) -> None:
        names = ("num_images", "threads", "batch_size", "workers", "read_threads")
        require_positive(self, *names, "prefetch_batches", "images_per_shard", "rounds")
        require_between(self, 0, 1, "hw_decoder_load")
        for name in ("hw_decoder_load", "batch_size", "threads", "workers"):
            if not getattr(self, name):
                raise ValueError(f"{flag_of(name)} is an empty list: leave it out, or give a value")
        if self.input != OWN and self.corpus != TEMPORARY:
            raise ValueError(
                f"--corpus {self.corpus} is for the benchmark's own images: leave out --corpus or"
                " INPUT"
            )
