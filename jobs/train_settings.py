"""The settings of `afd train`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jobs.settings import (
    ClassifierSettings,
    address_setting,
    device_setting,
    require_between,
    require_not_negative,
    require_positive,
    setting,
)
from pipeline.pairs.pair_plan import DegradationMix


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ClassifierSettings):
    """Train an AFD-Module for a frozen classifier on unlabelled images; writes afd.safetensors."""

    MAY_CHANGE = frozenset(
        {
            *("output", "max_time_s", "device", "workers", "cpus_per_worker", "attempts"),
            *("read_threads", "prefetch_batches", "address", "save_every_steps"),
            *("log_every_steps", "flip_passes", "flip_images"),
        }
    )

    crop: int | Literal["auto"] = setting(
        "auto",
        "side of the training windows, pixels, a multiple of 8; auto: the one nearest to the"
        " backbone's preset",
    )
    afd: str = setting(
        "untrained",
        "weights to start from: untrained, default (those shipped for the backbone), or a"
        " checkpoint of the same backbone, --fdm, --dct-input and --afd-size; paper and deep start"
        " from each other's, and stage corrections may be added or dropped",
    )
    afd_size: Literal["light", "paper", "deep"] = setting(
        "light",
        "light: at most a tenth of the backbone's multiply-adds; paper: width 16 at the stem's"
        " resolution; deep: paper with additional residual blocks, 1.3 to 1.7 times its"
        " multiply-adds",
    )
    fdm: Literal["auto", "channel", "spatial", "both", "full", "full+channel"] = setting(
        "auto", "form of the Feature Drifting Map; auto: that of --afd-size"
    )
    dct_input: Literal["auto", "linear", "log"] = setting(
        "auto",
        "input of FDE-Net: linear (DCT coefficients divided by their typical size) or log (their"
        " logarithms); auto: that of --afd-size",
    )

    corrected_stages: int | Literal["auto"] = setting(
        "auto",
        "number of the backbone's last stages that are corrected too, each by a narrow residual at"
        " its end; 0: only the stem; auto: as many as in the weights to start from, else 3 (paper:"
        " 0)",
    )

    kl_weight: float = setting(
        0.0, "loss weight of the KL divergence from the backbone's prediction for the clean picture"
    )
    root_kl_weight: float = setting(
        0.0,
        "loss weight of the square root of that divergence, per picture: it gives pictures whose"
        " prediction is far off less influence, and those whose label is about to change more",
    )
    kl_temperature: float = setting(1.0, "softmax temperature of that divergence")
    logit_weight: float = setting(
        0.2, "loss weight of the relative distance between the logits and the clean picture's"
    )
    embedding_weight: float | Literal["auto"] = setting(
        "auto",
        "loss weight of the relative distance between the last linear layer's input and the clean"
        " picture's; auto: 1, or 0 for a backbone that does not end in a linear layer",
    )
    feature_weight: float = setting(
        1.0,
        "loss weight of the relative distance between the features and the clean picture's, at the"
        " stem and later stages",
    )
    distance: Literal["squared", "plain"] = setting(
        "squared",
        "distance in the logit, embedding and feature terms; plain, the square root of squared,"
        " gives pictures that are nearly clean more influence",
    )
    feature_stages: int = setting(
        4, "number of stages after the stem that the feature term compares"
    )
    stem_l1_weight: float = setting(
        0.0,
        "loss weight of the mean absolute difference of the stem's features, the paper's only term",
    )

    clean_share: float = setting(0.10, "share of the pairs that are not compressed at all")
    high_quality_share: float = setting(
        0.08, "share of the pairs compressed once at quality 75 to 95"
    )
    multiple_share: float = setting(
        0.20,
        "share of the pairs compressed 2 to --max-compressions times: the whole picture, the"
        " training window, or first the picture and then the window",
    )
    paper_share: float = setting(
        0.60,
        "of the remaining pairs, the share compressed at one of the qualities 7, 10, 15, 18, 25;"
        " the others at 5 to 95",
    )
    imagenet_c_share: float = setting(
        0.50,
        "of the pairs compressed once, the share that follows the imagenet-c protocol (the window,"
        " then again at quality 85); the others are compressed as whole pictures",
    )
    max_compressions: int = setting(5, "highest number of compressions of a pair")
    min_area: float = setting(
        0.35,
        "smallest share of the picture's area that a window covers; at least 0.6 of a picture that"
        " --reduced-share reduced",
    )
    recoloured_share: float = setting(
        0.0,
        "share of the pairs whose colours are changed first: hue by up to 40 degrees, saturation"
        " by a factor of 0.4 to 1.6, brightness and contrast of 0.7 to 1.3",
    )
    upside_down_share: float = setting(0.0, "share of the pairs that are turned upside down first")
    reduced_share: float = setting(
        0.0,
        "share of the pairs whose picture is first reduced, to 1.25 to 1.75 times the training"
        " window, which removes what an earlier compression left in it; 1 for pictures of a low"
        " quality",
    )

    batch_size: int = setting(32, "pairs per step, over all workers")
    max_steps: int = setting(
        5000,
        "steps of the optimizer; the learning rate falls to 0 at the last one. To continue a"
        " finished run, raise this",
    )
    max_time_s: float | Literal["none"] = setting(
        "none", "end cleanly after this many seconds, with the weights that --keep names"
    )
    stem_steps: int = setting(
        1000,
        "number of steps at the start that compare only the stem's features, which is fast; at"
        " most half of --max-steps",
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "muon",
        "adamw, or muon: Muon for the convolution kernels, AdamW for biases and PReLU slopes",
    )
    stem_learning_rate: float | Literal["auto"] = setting(
        "auto", "learning rate of the stem steps; auto: 0.01 with muon, 0.002 with adamw"
    )
    learning_rate: float | Literal["auto"] = setting(
        "auto",
        "learning rate after the stem steps; auto: 0.0015 with muon, 0.0003 with adamw. Both rates"
        " rise during --warmup-steps and then fall along a cosine",
    )
    warmup_steps: int = setting(100, "steps over which the learning rate rises from 0")
    weight_decay: float = setting(1e-4, "decay of the weights; biases and slopes do not decay")
    ema_decay: float = setting(
        0.998, "decay of the moving average of the weights, which is validated and exported"
    )
    start_share: float = setting(
        0.0,
        "weight of the starting checkpoint when it is averaged with the trained weights, 0 to 1;"
        " for training pictures that are less varied than those to label",
    )
    clip_norm: float = setting(
        1.0, "maximum norm of the gradient; larger gradients are scaled down to it"
    )
    seed: int = setting(
        0, "random seed for the module's initial weights, the shuffling and the degradation"
    )

    held_out_images: int | Literal["auto"] = setting(
        "auto",
        "images set aside for validation and the flip model, chosen by a hash of their names; auto:"
        " 264, or a fifth of the images where that is fewer",
    )
    keep: Literal["best", "last"] = setting(
        "best",
        "which averaged weights are exported: those of the best or of the last validation; last is"
        " for held-out images that differ from those to label",
    )
    validate_every_steps: int = setting(250, "steps between validations")
    save_every_steps: int = setting(
        100, "steps between saved states; a killed run repeats fewer than this"
    )
    log_every_steps: int = setting(10, "steps between records in log.jsonl")
    flip_passes: int = setting(
        4, "times each held-out image is compressed at random to fit flip_probability"
    )
    flip_images: int = setting(
        2000,
        "also fit flip_probability on this many training images, each compressed once at the"
        " preset's size",
    )

    device: Literal["auto", "cuda", "cpu"] = device_setting()
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        "precision of the arithmetic; auto: bf16 on CUDA and on CPUs that have it, else fp32",
    )
    workers: int = setting(
        0, "0: train in this process, without Ray; N: Ray workers, one per GPU with --device cuda"
    )
    cpus_per_worker: int = setting(
        1, "CPU cores (threads of the model and of the decoder) per worker"
    )
    attempts: int = setting(3, "how often the workers may be started, the first time included")
    read_threads: int = setting(4, "threads that read and screen files ahead, per worker")
    prefetch_batches: int = setting(2, "batches made ahead of the model, per worker")
    max_pixels: int = setting(
        100_000_000, "images with more pixels (width x height) are not trained on"
    )
    address: str = address_setting()

    def check_values(self) -> None:
        require_positive(
            self,
            *("batch_size", "max_steps", "max_time_s", "stem_learning_rate", "learning_rate"),
            *("clip_norm", "held_out_images", "validate_every_steps", "save_every_steps"),
            *("log_every_steps", "flip_passes", "cpus_per_worker", "attempts", "read_threads"),
            *("prefetch_batches", "max_pixels"),
        )
        require_not_negative(
            self,
            *("workers", "stem_steps", "warmup_steps", "feature_stages", "corrected_stages"),
            *("weight_decay", "seed", "flip_images"),
        )
        require_between(self, 0, 1, "start_share")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay {self.ema_decay} is not from 0 to below 1")
        if self.batch_size % max(1, self.workers):
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be divided equally among {self.workers}"
                f" workers: use a multiple of {self.workers}"
            )
        self.mix()  # raises ValueError for impossible shares

    def mix(self) -> DegradationMix:
        """Of the pairs that the module is trained on."""
        return DegradationMix(**{name: getattr(self, name) for name in _MIX})

    def flip_mix(self) -> DegradationMix:
        """Of the pairs that the flip model is fitted on."""
        return replace(self.mix(), thumbnail_share=_THUMBNAIL_SHARE)


_THUMBNAIL_SHARE = 1 / 3
_MIX = tuple(DegradationMix.__dataclass_fields__.keys() - {"thumbnail_share"})
