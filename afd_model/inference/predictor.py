"""Runs a classifier in production: one device, one precision, one copy to the host per batch."""

import copy
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from afd_model.classifier import AFDClassifier
from afd_model.dct import DCT_CHANNELS
from afd_model.flip_model import FlipModel, FlipScorer, flip_features
from afd_model.inference.batch_norm_folding import fold_batch_norms
from afd_model.inference.conv2d_same import replace_conv2d_same
from afd_model.inference.device import dtype_name
from afd_model.inference.inductor_model import InductorModel
from afd_model.inference.kernels import has_numba
from afd_model.inference.micro_batches import micro_batch_sizes
from afd_model.inference.openvino_model import OpenVINOModel
from afd_model.inference.predictions import NotFiniteError, Predictions
from afd_model.inference.rounding import keep_head_in_float32, round_weights

_MAX_OPENVINO_IMAGES = 16  # at a time; more gain nothing

Engine = Literal["torch", "inductor", "openvino"]


class Predictor:
    """Runs a classifier: RepConvs fused, batch norms folded, channels_last, without gradients.

    If a batch does not fit in the device's memory, this batch and all later ones run in smaller
    micro-batches, or without Inductor, and `notice` says so.

    Args:
        classifier: not modified; the predictor works on a copy.
        device: from `resolve_device`.
        precision: from `resolve_precision`.
        top_k: number of most probable classes to return, at most all.
        flip_model: from the AFD checkpoint.
        engine: "torch"; "openvino", on a CPU; or "inductor", on CUDA. The last two are compiled for
            images of `crop` pixels.
        crop: side of the images, pixels; None: that of the backbone's preset.
        num_images: size of the largest batch. "inductor" needs it.

    Attributes:
        has_trained_module: the classifier's; without it there is no drift to measure.
        flip_scorer: `flip_model`'s, on the device; None without one.
        notice: one line for the user, as after running out of memory; else None.

    Raises:
        ValueError: top_k is below 1, or the engine cannot run this model on this device.
        torch.OutOfMemoryError: CUDA's memory does not suffice to compile for `num_images`.
    """

    def __init__(
        self,
        classifier: AFDClassifier,
        *,
        device: torch.device,
        precision: torch.dtype,
        top_k: int = 5,
        flip_model: FlipModel | None = None,
        engine: Engine = "torch",
        crop: int | None = None,
        num_images: int | None = None,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"top_k is at least 1, not {top_k}")
        _check_engine(engine, device)
        self.device = device
        self.precision = precision
        self.engine = engine
        self.num_images = num_images
        self.top_k = top_k
        self.flip_scorer = FlipScorer(flip_model).to(device) if flip_model else None
        self.notice: str | None = None
        self._takes_dct = classifier.afd is not None
        self.has_trained_module = classifier.has_trained_module
        model = _optimized(classifier, device, precision)
        side = crop or classifier.crop
        self._micro_batch: int | None = None
        self._openvino_model: OpenVINOModel | None = None
        self._inductor_model: InductorModel | None = None
        if engine == "openvino":
            self._compile_openvino(model, classifier, side)  # from float32: it converts itself
        if precision != torch.float32:
            keep_head_in_float32(model.backbone)
        model = model.to(device=device, dtype=precision)
        # The DCT stays float32, as the decoder gives it; FDE-Net converts it.
        on_cpu = device.type == "cpu"
        self._dct_layout = torch.contiguous_format if on_cpu else torch.channels_last
        self.model = model.to(memory_format=torch.channels_last)
        if on_cpu and engine == "torch":
            sizes = micro_batch_sizes(classifier, side, precision)
            self._micro_batch = sizes.backbone
            self.model.afd_micro_batch = sizes.afd
            _use_cpu_kernels(self.model)
        if engine == "inductor":
            self._compile_inductor(side)

    def _compile_openvino(self, model: AFDClassifier, classifier: AFDClassifier, side: int) -> None:
        """model: `classifier` from `_optimized`, in float32."""
        most = min(_MAX_OPENVINO_IMAGES, self.num_images or _MAX_OPENVINO_IMAGES)
        # OpenVINO's overhead per layer is smaller, so smaller micro-batches are best.
        fitting = micro_batch_sizes(classifier, side, self.precision).backbone // 2
        self._micro_batch = max(4, 2 * torch.get_num_threads(), min(most, fitting))
        self._openvino_model = OpenVINOModel(
            model, num_images=self._micro_batch, side=side, precision=self.precision
        )

    def _compile_inductor(self, side: int) -> None:
        if self.num_images is None:
            raise ValueError("engine 'inductor' compiles for one batch size: give num_images")
        self._inductor_model = InductorModel(self._scores, self._blank(self.num_images, side))
        self._micro_batch = self.num_images

    def _blank(self, num_images: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of zeros for `_scores`: pixels, DCT and facts of the files."""
        pixels = torch.zeros(num_images, 3, side, side)
        channels = DCT_CHANNELS if self._takes_dct else 0
        dct = torch.zeros(num_images, channels, side // 8, side // 8)
        file_facts = torch.zeros(num_images, 2, device=self.device)
        return self.placed_pixels(pixels), self.placed_dct(dct), file_facts

    def __call__(
        self, pixels: Tensor, dct: Tensor, file_facts: Tensor | None = None
    ) -> Predictions:
        """Classifies a batch.

        Args:
            pixels: (B, 3, H, W) normalised, any floating dtype, any device.
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, any floating dtype, any device.
            file_facts: (B, 2) for the flip model, see `flip_features`; None: no quality, and not
                enlarged.

        Raises:
            NotFiniteError: the model's numbers exceed the precision, as fp16's above 65,504, or its
                weights are damaged. The most probable class would then be any.
        """
        if file_facts is None:
            file_facts = torch.tensor([[math.nan, 0.0]]).expand(pixels.shape[0], 2)
        while True:
            try:
                return self._unpacked(self._sliced(pixels, dct, file_facts))
            except torch.OutOfMemoryError:
                if self._inductor_model is None and self._step(pixels) == 1:
                    raise
            self._use_less_memory(self._step(pixels))  # outside: the traceback keeps tensors alive

    def _use_less_memory(self, step: int) -> None:
        if self._inductor_model is not None:
            self._inductor_model = None  # its batch size is fixed
            change = "the model runs without Inductor, more slowly,"
        else:
            self._micro_batch = (step + 1) // 2
            change = f"the model takes {self._micro_batch} images at a time"
        self.notice = (
            f"out of memory on {self.device}: {change} from here on; a smaller --batch-size avoids"
            " this"
        )
        torch.cuda.empty_cache()

    def _step(self, pixels: Tensor) -> int:
        batch = max(1, pixels.shape[0])
        return min(batch, self._micro_batch or batch)

    @torch.inference_mode()
    def _sliced(self, pixels: Tensor, dct: Tensor, file_facts: Tensor) -> np.ndarray:
        """(B, 2k + 3) float32 on the host, see `_packed`; runs in micro-batches."""
        step = self._step(pixels)
        slices = zip(pixels.split(step), dct.split(step), file_facts.split(step), strict=True)
        host: np.ndarray = torch.cat([self._packed(*slice_) for slice_ in slices]).cpu().numpy()
        return host

    def _packed(self, pixels: Tensor, dct: Tensor, file_facts: Tensor) -> Tensor:
        """(B, 2k + 3) float32 on the device: labels, confidences, angle, energy, flip probability.

        One tensor needs one copy to the host. Class indices below 2**24 are exact in float32.
        """
        pixels, dct = self.placed_pixels(pixels), self.placed_dct(dct)
        file_facts = file_facts.to(self.device, torch.float32, non_blocking=True)
        if not self._takes_dct:
            dct = dct[:, :0]
        if self._inductor_model is not None:
            return self._inductor_model(pixels, dct, file_facts)
        return self._scores(pixels, dct, file_facts)

    def _scores(self, pixels: Tensor, dct: Tensor, file_facts: Tensor) -> Tensor:
        output = (self._openvino_model or self.model)(pixels, dct)
        probabilities = torch.softmax(output.logits.float(), dim=1)
        k = min(self.top_k, probabilities.shape[1])
        top = probabilities.topk(k, dim=1)
        flip = torch.zeros_like(output.drift_energy)
        if self.flip_scorer is not None:
            flip = self.flip_scorer(
                flip_features(output.drift_angle_deg, probabilities, dct, file_facts)
            )
        scores = torch.stack([output.drift_angle_deg, output.drift_energy, flip], dim=1)
        return torch.cat([top.indices.float(), top.values, scores], dim=1)

    def placed_pixels(self, pixels: Tensor) -> Tensor:
        """The pixels on the model's device, in its dtype and memory format."""
        return pixels.to(
            device=self.device,
            dtype=self.precision,
            non_blocking=True,
            memory_format=torch.channels_last,
        )

    def placed_dct(self, dct: Tensor) -> Tensor:
        """The DCT on the model's device, in float32 and its memory format."""
        return dct.to(
            device=self.device,
            dtype=torch.float32,
            non_blocking=True,
            memory_format=self._dct_layout,
        )

    def _unpacked(self, host: np.ndarray) -> Predictions:
        k = (host.shape[1] - 3) // 2
        self._check_finite(host[:, k])
        top_labels = host[:, :k].astype(np.int32)
        top_confidences = np.ascontiguousarray(host[:, k : 2 * k])
        angle, energy, flip = (np.ascontiguousarray(column) for column in host[:, 2 * k :].T)
        return Predictions(
            labels=top_labels[:, 0].copy(),
            confidences=top_confidences[:, 0].copy(),
            top_labels=top_labels,
            top_confidences=top_confidences,
            drift_angle_deg=angle if self.has_trained_module else None,
            drift_energy=energy if self.has_trained_module else None,
            flip_probability=flip if self.flip_scorer is not None else None,
        )

    def _check_finite(self, confidences: np.ndarray) -> None:
        wrong = np.count_nonzero(~np.isfinite(confidences))
        if not wrong:
            return
        way_out = "use --precision fp32, with another --output once this one has labels"
        if self.precision == torch.float32:
            way_out = "check the weights"
        raise NotFiniteError(
            f"in {dtype_name(self.precision)} the probabilities of {wrong} of {len(confidences)}"
            f" images are not numbers: {way_out}"
        )


def _check_engine(engine: Engine, device: torch.device) -> None:
    needed = {"openvino": "cpu", "inductor": "cuda"}.get(engine, device.type)
    if device.type != needed:
        raise ValueError(
            f"engine {engine!r} runs on {'a CPU' if needed == 'cpu' else 'CUDA'}, not on {device}:"
            f" use --device {needed}, or --engine torch"
        )


def _use_cpu_kernels(model: AFDClassifier) -> None:
    """Replaces parts of the AFD-Module by Numba kernels, if installed: several times as fast."""
    if not has_numba():
        return
    from afd_model.inference import cpu_kernels

    model.enhance = cpu_kernels.enhance_and_score
    if model.afd is not None:
        fde_net = model.afd.fde_net
        fde_net.log_magnitude = cpu_kernels.log_magnitude_in_one_pass
        if cpu_kernels.fuses_gate(fde_net):
            fde_net.fused_gate = cpu_kernels.fused_gate


def _optimized(
    classifier: AFDClassifier, device: torch.device, precision: torch.dtype
) -> AFDClassifier:
    """A fused and folded copy in float32, its weights rounded to values of the precision."""
    model = copy.deepcopy(classifier).eval().requires_grad_(requires_grad=False)
    if model.afd is not None:
        model.afd.fuse()
    fold_batch_norms(model.backbone)
    if device.type == "cpu":
        replace_conv2d_same(model.backbone)
    if precision != torch.float32:
        round_weights(model.backbone, precision, classifier.crop)
    return model
