"""What `afd train` can be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from jobs.settings import ClassifierSettings, flag_of, setting
from pipeline.pair_plan import DegradationMix


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ClassifierSettings):
    """Train an AFD-Module for a frozen classifier on unlabelled images; writes afd.safetensors."""

    crop: int | Literal["auto"] = setting(
        "auto", "side of the training windows, pixels, a multiple of 8; auto: the backbone's preset"
    )
    afd: str = setting(
        "untrained",
        "the weights to start from: untrained, default (those shipped for the backbone), or a"
        " checkpoint of the same backbone, form and size; paper and deep start from each other's,"
        " and --corrected-stages may differ",
    )
    afd_size: Literal["light", "paper", "deep"] = setting(
        "light",
        "light: at most a tenth of the backbone's multiply-adds; paper: width 16 at the stem's"
        " resolution; deep: the same with residual blocks between, half as costly again",
    )
    fdm: Literal["auto", "channel", "spatial", "both", "full", "full+channel"] = setting(
        "auto", "form of the Feature Drifting Map; auto: the size's own"
    )
    dct_input: Literal["auto", "linear", "log"] = setting(
        "auto",
        "how FDE-Net sees the DCT: the coefficients over their typical size, or their logarithms;"
        " auto: the size's own",
    )

    corrected_stages: int | Literal["auto"] = setting(
        "auto",
        "how many of the backbone's last stages are corrected too, each by a narrow residual at its"
        " end; 0: the stem alone; auto: as many as the weights to start from do, else 3 (paper: 0)",
    )

    kl_weight: float = setting(
        0.0, "loss: KL divergence from the backbone's prediction for the clean picture"
    )
    root_kl_weight: float = setting(
        0.0,
        "loss: root of that divergence, picture by picture; a hopeless one pulls less, and one"
        " whose label is about to change more",
    )
    kl_temperature: float = setting(1.0, "temperature of that divergence's softmax")
    logit_weight: float = setting(
        0.2, "loss: relative distance of the logits to the clean picture's"
    )
    embedding_weight: float = setting(
        0.0, "loss: relative distance of what the last linear layer is given to the clean one"
    )
    feature_weight: float = setting(
        1.0, "loss: relative distance of the features to the clean ones, stem and stages"
    )
    distance: Literal["squared", "plain"] = setting(
        "squared",
        "of logits, embedding and features; plain, the root of the squared one, is gentler to"
        " pictures that are nearly clean",
    )
    feature_stages: int = setting(4, "stages behind the stem that the feature term looks at")
    stem_l1_weight: float = setting(
        0.0, "loss: mean absolute difference of the stem's features, the paper's only term"
    )

    clean_share: float = setting(0.10, "share of the pairs that are not compressed at all")
    high_quality_share: float = setting(0.08, "share compressed once at quality 75 to 95")
    multiple_share: float = setting(
        0.20,
        "share compressed 2 to --max-compressions times: the whole picture, the window, or first"
        " the one and then the other",
    )
    paper_share: float = setting(
        0.60,
        "of the rest, share at one of the qualities 7, 10, 15, 18, 25; the others at 5 to 95",
    )
    imagenet_c_share: float = setting(
        0.50,
        "of what is compressed once, share by the imagenet-c protocol (on the window, then quality"
        " 85); the others on the whole picture",
    )
    max_compressions: int = setting(5, "most compressions of a pair")
    min_area: float = setting(0.35, "smallest window's share of the picture's area")
    recoloured_share: float = setting(
        0.0,
        "share of the pairs whose colours are changed first: hue by up to 40 degrees, saturation by"
        " 0.4 to 1.6, brightness and contrast by 0.7 to 1.3",
    )
    upside_down_share: float = setting(0.0, "share of the pairs that are turned upside down first")

    batch_size: int = setting(32, "pairs in a step, of all workers together")
    max_steps: int = setting(
        5000,
        "steps of the optimizer; the learning rate ends at 0 there. A finished run goes on when"
        " they are raised",
    )
    max_time_s: float | Literal["none"] = setting(
        "none", "end cleanly after so many seconds, with the best checkpoint so far"
    )
    stem_steps: int = setting(
        1000,
        "the first steps: on the stem's features alone, which is fast; at most half of --max-steps",
    )
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "muon: of the module's kernels, whose biases and slopes stay AdamW's"
    )
    stem_learning_rate: float = setting(2e-3, "in the stem steps")
    learning_rate: float = setting(
        3e-4, "after them; each rises in --warmup-steps and falls along a cosine"
    )
    warmup_steps: int = setting(100, "steps in which the learning rate rises from 0")
    weight_decay: float = setting(1e-4, "of weights, not of biases")
    ema_decay: float = setting(0.998, "of the averaged weights, which are validated and exported")
    start_share: float = setting(
        0.0,
        "share of the weights to start from in those that are validated and exported: what they"
        " were good at is kept, where the training pictures are of fewer kinds than those to label",
    )
    clip_norm: float = setting(1.0, "greatest norm of the gradient")
    seed: int = setting(0, "of the module's first weights, the shuffling and the degradation")

    held_out_images: int = setting(
        264, "images kept for validation and the flip model, chosen by a hash of their names"
    )
    keep: Literal["best", "last"] = setting(
        "best",
        "which averaged weights are exported: of the best validation, or of the last, for held-out"
        " images that are not like those to be labelled",
    )
    validate_every_steps: int = setting(250, "steps between validations")
    save_every_steps: int = setting(100, "steps between saved states; a killed run repeats fewer")
    log_every_steps: int = setting(10, "steps between records in log.jsonl")
    flip_passes: int = setting(
        4, "times each held-out image is compressed at random to fit flip_probability"
    )
    flip_images: int = setting(
        2000, "training images that are, once each and at the preset's size, fitted to as well"
    )

    device: Literal["auto", "cuda", "cpu"] = setting("auto", "auto takes CUDA where there is one")
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto", "of the arithmetic; auto: bf16 on CUDA and on CPUs that have it, else fp32"
    )
    workers: int = setting(
        0,
        "0: train in this process, without Ray; N: Ray workers, one for each GPU with --device"
        " cuda",
    )
    cpus_per_worker: int = setting(
        1, "CPU cores (threads of the model and of the decoder) a worker"
    )
    attempts: int = setting(3, "times that Ray starts the workers again after one has died, plus 1")
    read_threads: int = setting(4, "threads that read and screen files ahead, in each worker")
    prefetch_batches: int = setting(2, "batches made ahead of the model, in each worker")
    max_pixels: int = setting(
        100_000_000, "images with more pixels (width x height) are not trained on"
    )
    address: str = setting(
        "local", "Ray cluster: local starts one here, auto finds the running one"
    )

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{flag_of(name)} {getattr(self, name)} is not positive")
        for name in (
            "workers",
            "stem_steps",
            "warmup_steps",
            "feature_stages",
            "weight_decay",
            "seed",
            "flip_images",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{flag_of(name)} {getattr(self, name)} is negative")
        if self.corrected_stages != "auto" and self.corrected_stages < 0:
            raise ValueError(f"--corrected-stages {self.corrected_stages} is negative")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay {self.ema_decay} is not from 0 to below 1")
        if not 0 <= self.start_share <= 1:
            raise ValueError(f"--start-share {self.start_share} is not from 0 to 1")
        if self.batch_size % max(1, self.workers):
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be dealt out to {self.workers} workers"
                f" equally: use a multiple of {self.workers}"
            )
        self.mix()  # it refuses shares that cannot be

    def mix(self) -> DegradationMix:
        return DegradationMix(**{name: getattr(self, name) for name in _MIX})

    @property
    def model_settings(self) -> dict[str, Any]:
        """What decides the weights; a run is continued only with the same."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


_MIX = tuple(DegradationMix.__dataclass_fields__)
_POSITIVE = (
    *(
        "batch_size",
        "max_steps",
        "stem_learning_rate",
        "learning_rate",
        "clip_norm",
        "held_out_images",
    ),
    *("validate_every_steps", "save_every_steps", "log_every_steps", "flip_passes"),
    *("cpus_per_worker", "attempts", "read_threads", "prefetch_batches", "max_pixels"),
)
# How fast, how long and where a run goes may change between a run and its continuation.
_FREE = (
    *("output", "max_time_s", "device", "workers", "cpus_per_worker", "attempts", "read_threads"),
    *("prefetch_batches", "address", "save_every_steps", "log_every_steps", "flip_passes"),
    "flip_images",
)
