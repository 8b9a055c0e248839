"""The classifier as it runs in production: one device, one precision, one transfer a batch."""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from afd_model.classifier import AFDClassifier
from afd_model.dct import DCT_CHANNELS
from afd_model.drift import FlipModel, FlipScorer, flip_features
from afd_model.inference.cpu_fit import fit_to_caches
from afd_model.inference.folding import fold_batch_norms
from afd_model.inference.inductor_model import InductorBatches
from afd_model.inference.kernels import cpu_kernels
from afd_model.inference.openvino_model import OpenVINOModel
from afd_model.inference.rounding import keep_head_in_float32, round_weights
from afd_model.inference.same_padding import inline_same_padding

_MOST_IN_OPENVINO = 16  # images at a time; with more nothing is gained

Engine = Literal["torch", "inductor", "openvino"]


@dataclass(frozen=True)
class Predictions:
    """One batch on the CPU.

    Attributes:
        labels: (B,) int32, top-1.
        confidences: (B,) float32, its softmax probability.
        top_labels: (B, k) int32, most probable first.
        top_confidences: (B, k) float32.
        drift_angle_deg, drift_energy: (B,) float32; None without a trained AFD-Module.
        flip_probability: (B,) float32; None without a flip model.
    """

    labels: np.ndarray
    confidences: np.ndarray
    top_labels: np.ndarray
    top_confidences: np.ndarray
    drift_angle_deg: np.ndarray | None
    drift_energy: np.ndarray | None
    flip_probability: np.ndarray | None


class Predictor:
    """Runs a classifier: fused, batch norms folded, channels_last, without gradients.

    When the device's memory does not suffice for a batch, it is run without Inductor or in parts,
    and those that come after it too; `notice` then says so, else it is None. Pixels that come in
    `pixels_dtype` are not converted.

    Args:
        classifier: left as it is; the predictor works on a copy.
        device: from `resolve_device`.
        precision: from `resolve_precision`.
        top_k: most probable classes to give; at most the number of classes.
        flip_model: from the AFD checkpoint.
        engine: what runs the model; "openvino" on a CPU only, "inductor" on CUDA only and for at
            most `num_images` at a time, both for images of `crop`.
        crop: side of the images, pixels; None: the backbone's preset.
        num_images: of the largest batch; "inductor" needs it, "openvino" is compiled for no more.

    Raises:
        ValueError: top_k is below 1, or the engine cannot run the model so.
        torch.OutOfMemoryError: CUDA's memory does not suffice for "inductor" and such a batch.
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
        self.flip_model = flip_model
        self._flip_scorer = FlipScorer(flip_model).to(device) if flip_model else None
        self.notice: str | None = None
        self._takes_dct = classifier.afd is not None
        self.measures_drift = classifier.afd is not None and not classifier.afd.is_identity
        model = _lean(classifier, device, precision)
        side = crop or classifier.crop
        self._images_per_slice: int | None = None
        self._compiled: OpenVINOModel | None = None
        self._batches: InductorBatches | None = None
        if engine == "openvino":
            self._compile_openvino(model, classifier, side)  # which makes the precision itself
        if precision != torch.float32:
            keep_head_in_float32(model.backbone)
        model = model.to(device=device, dtype=precision)
        self.pixels_dtype = precision
        # The DCT is taken as the decoder has it: FDE-Net's first step makes the precision of it.
        on_cpu = device.type == "cpu"
        self._dct_layout = torch.contiguous_format if on_cpu else torch.channels_last
        self.model = model.to(memory_format=torch.channels_last)
        if on_cpu and engine == "torch":
            fit = fit_to_caches(classifier, side, precision)
            self._images_per_slice = fit.images_per_slice
            self.model.images_per_part = fit.images_per_part
            _compile_kernels(self.model)
        if engine == "inductor":
            self._compile_batches(side)

    def _compile_openvino(self, model: AFDClassifier, classifier: AFDClassifier, side: int) -> None:
        """model: `classifier` in fewer layers, in float32."""
        most = min(_MOST_IN_OPENVINO, self.num_images or _MOST_IN_OPENVINO)
        # It takes fewer passes a layer than PyTorch, so fewer images make up for them.
        fitting = fit_to_caches(classifier, side, self.precision).images_per_slice // 2
        self._images_per_slice = max(4, 2 * torch.get_num_threads(), min(most, fitting))
        self._compiled = OpenVINOModel(
            model, num_images=self._images_per_slice, side=side, precision=self.precision
        )

    def _compile_batches(self, side: int) -> None:
        if self.num_images is None:
            raise ValueError("engine 'inductor' compiles for one size of batch: say num_images")
        self._batches = InductorBatches(self._scores, self._blank(self.num_images, side))
        self._images_per_slice = self.num_images

    def _blank(self, num_images: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, DCT and qualities as `_scores` takes them."""
        pixels = torch.zeros(num_images, 3, side, side)
        dct = torch.zeros(num_images, DCT_CHANNELS, side // 8, side // 8)
        if not self._takes_dct:
            dct = dct[:, :0]
        qualities = torch.zeros(num_images, device=self.device)
        return self.placed_pixels(pixels), self.placed_dct(dct), qualities

    def __call__(
        self, pixels: Tensor, dct: Tensor, jpeg_quality: Tensor | None = None
    ) -> Predictions:
        """Labels a batch.

        Args:
            pixels: (B, 3, H, W) normalised, any floating dtype, any device.
            dct: (B, 192, H/8, W/8) as `block_dct` gives it, likewise.
            jpeg_quality: (B,) 1..100, NaN where the header has none; only the flip model uses it.
        """
        if jpeg_quality is None:
            jpeg_quality = torch.full((pixels.shape[0],), math.nan)
        while True:
            try:
                return self._unpacked(self._sliced(pixels, dct, jpeg_quality))
            except torch.OutOfMemoryError:
                if self._batches is None and self._step(pixels) == 1:
                    raise
            self._take_less(self._step(pixels))  # out here: the error's traceback holds tensors

    def _take_less(self, step: int) -> None:
        if self._batches is not None:
            self._batches = None  # which computes all its images for however few
            change = "the model runs without Inductor, more slowly,"
        else:
            self._images_per_slice = (step + 1) // 2
            change = f"the model takes {self._images_per_slice} images at a time"
        self.notice = (
            f"out of memory on {self.device}: {change} from here on; a smaller --batch-size avoids"
            " the detour"
        )
        torch.cuda.empty_cache()

    def _step(self, pixels: Tensor) -> int:
        whole = max(1, pixels.shape[0])
        return min(whole, self._images_per_slice or whole)

    @torch.inference_mode()
    def _sliced(self, pixels: Tensor, dct: Tensor, jpeg_quality: Tensor) -> np.ndarray:
        """(B, 2k + 3) float32 on the host, see `_packed`."""
        step = self._step(pixels)
        slices = zip(pixels.split(step), dct.split(step), jpeg_quality.split(step), strict=True)
        host: np.ndarray = torch.cat([self._packed(*slice_) for slice_ in slices]).cpu().numpy()
        return host

    def _packed(self, pixels: Tensor, dct: Tensor, jpeg_quality: Tensor) -> Tensor:
        """(B, 2k + 3) float32 on the device: labels, confidences, angle, energy, flip.

        One tensor makes one transfer; class numbers below 2**24 are exact in float32.
        """
        pixels, dct = self.placed_pixels(pixels), self.placed_dct(dct)
        qualities = jpeg_quality.to(self.device, torch.float32, non_blocking=True)
        if not self._takes_dct:
            dct = dct[:, :0]
        if self._batches is not None:
            return self._batches(pixels, dct, qualities)
        return self._scores(pixels, dct, qualities)

    def _scores(self, pixels: Tensor, dct: Tensor, qualities: Tensor) -> Tensor:
        output = (self._compiled or self.model)(pixels, dct)
        probabilities = torch.softmax(output.logits.float(), dim=1)
        k = min(self.top_k, probabilities.shape[1])
        top = probabilities.topk(k, dim=1)
        flip = torch.zeros_like(output.drift_energy)
        if self._flip_scorer is not None:
            flip = self._flip_scorer(
                flip_features(output.drift_angle_deg, probabilities, dct, qualities)
            )
        scores = torch.stack([output.drift_angle_deg, output.drift_energy, flip], dim=1)
        return torch.cat([top.indices.float(), top.values, scores], dim=1)

    def placed_pixels(self, pixels: Tensor) -> Tensor:
        """The same pixels on the device, of the dtype and in the layout that the model takes."""
        return pixels.to(
            device=self.device,
            dtype=self.pixels_dtype,
            non_blocking=True,
            memory_format=torch.channels_last,
        )

    def placed_dct(self, dct: Tensor) -> Tensor:
        """Likewise for the DCT coefficients."""
        return dct.to(
            device=self.device,
            dtype=torch.float32,
            non_blocking=True,
            memory_format=self._dct_layout,
        )

    def _unpacked(self, host: np.ndarray) -> Predictions:
        k = (host.shape[1] - 3) // 2
        top_labels = host[:, :k].astype(np.int32)
        top_confidences = np.ascontiguousarray(host[:, k : 2 * k])
        angle, energy, flip = (np.ascontiguousarray(column) for column in host[:, 2 * k :].T)
        return Predictions(
            labels=top_labels[:, 0].copy(),
            confidences=top_confidences[:, 0].copy(),
            top_labels=top_labels,
            top_confidences=top_confidences,
            drift_angle_deg=angle if self.measures_drift else None,
            drift_energy=energy if self.measures_drift else None,
            flip_probability=flip if self.flip_model is not None else None,
        )


def _check_engine(engine: Engine, device: torch.device) -> None:
    needed = {"openvino": "cpu", "inductor": "cuda"}.get(engine, device.type)
    if device.type != needed:
        raise ValueError(
            f"engine {engine!r} runs on {'a CPU' if needed == 'cpu' else 'CUDA'}, not on {device}:"
            f" use --device {needed}, or --engine torch"
        )


def _compile_kernels(model: AFDClassifier) -> None:
    """Has the model use what Numba compiles, where it is installed: several times as fast."""
    if (kernels := cpu_kernels()) is None:
        return
    model.enhance = kernels.enhance_and_score
    if model.afd is not None:
        fde_net = model.afd.fde_net
        fde_net.log_magnitude = kernels.log_magnitude_in_one_pass
        if fde_net.hidden.out_channels <= kernels.MOST_HIDDEN:
            fde_net.hidden_of_logs = kernels.hidden_of_logs


def _lean(classifier: AFDClassifier, device: torch.device, precision: torch.dtype) -> AFDClassifier:
    """A copy in fewer layers and passes, still float32, its weights ready for the precision."""
    model = copy.deepcopy(classifier).eval().requires_grad_(requires_grad=False)
    if model.afd is not None:
        model.afd.fuse()
    fold_batch_norms(model.backbone)
    if device.type == "cpu":
        inline_same_padding(model.backbone)
    if precision != torch.float32:
        round_weights(model.backbone, precision, classifier.crop)
    return model
