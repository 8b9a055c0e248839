"""The classifier compiled by OpenVINO for a CPU."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from afd_model.afd_module import AFDModule
from afd_model.classifier import AFDClassifier, ClassifierOutput
from afd_model.drift import Drift, drift_by_convolutions

logger = logging.getLogger(__name__)

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINOModel:
    """A drop-in for `AFDClassifier.forward`, compiled for one batch size and image size.

    Not thread-safe. Creating one takes seconds: the classifier is exported by torch.export,
    converted and compiled.

    Args:
        classifier: in float32 on the CPU; not modified.
        num_images: largest batch; smaller ones are padded with zeros.
        side: height and width of the images, pixels.
        precision: dtype of the pixels, and of the layers' inputs and weights: float32 or bfloat16.
            Logits are float32 in both.

    Raises:
        ValueError: OpenVINO is not installed or does not support a layer, or the CPU has no bf16.
    """

    def __init__(
        self,
        classifier: AFDClassifier,
        *,
        num_images: int,
        side: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        if find_spec("openvino") is None:
            raise ValueError("openvino not installed: pip install 'afd-label[openvino]'")
        self._num_images = num_images
        classifier = copy.deepcopy(classifier)
        classifier.enhance = _enhance_and_score
        self._fde_net = classifier.afd.fde_net if classifier.afd else None
        inputs = [torch.zeros(num_images, side, side, 3, dtype=precision)]
        if self._fde_net:
            # OpenVINO's logarithm is not vectorised: PyTorch computes it.
            self._fde_net.preprocesses = False
            inputs.append(torch.zeros(num_images, 192, side // 8, side // 8))
        self._request = _compiled(_Exported(classifier).eval(), tuple(inputs), precision)

    def __call__(self, pixels: Tensor, dct: Tensor) -> ClassifierOutput:
        """See `AFDClassifier.forward`; at most `num_images` images, the DCT in float32.

        Pixels in channels_last are not copied.
        """
        count = pixels.shape[0]
        inputs = [pixels.permute(0, 2, 3, 1)]
        if self._fde_net:
            inputs.append(self._fde_net.preprocess(dct))
        results = self._request.infer([self._padded(x) for x in inputs], share_inputs=True)
        # Copied: the next call overwrites this memory.
        outputs = [torch.from_numpy(array[:count].copy()) for array in results.values()]
        if self._fde_net:
            return ClassifierOutput(*outputs)
        zero = torch.zeros(count)
        return ClassifierOutput(outputs[0], zero, zero)

    def _padded(self, x: Tensor) -> Any:
        """(B, ...) -> (num_images, ...), padded with zeros, as an OpenVINO tensor."""
        import openvino as ov

        blank = self._num_images - x.shape[0]
        if blank:
            x = torch.cat([x, x.new_zeros(blank, *x.shape[1:])])
        x = x.contiguous()
        if x.dtype == torch.bfloat16:  # which NumPy does not know
            return ov.Tensor(x.view(torch.uint16).numpy(), ov.Shape(x.shape), ov.Type.bf16)
        return ov.Tensor(x.numpy(), shared_memory=True)


def _enhance_and_score(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """An `Enhance` in operators that OpenVINO runs fast."""
    enhanced, _ = module(features, dct)
    return enhanced, drift_by_convolutions(features, enhanced)


class _Exported(nn.Module):
    """The graph to export: NHWC input, and without an AFD-Module no drift scores."""

    def __init__(self, classifier: AFDClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor, dct: Tensor | None = None) -> tuple[Tensor, ...]:
        """pixels: (B, H, W, 3), the memory layout of channels_last."""
        pixels = pixels.permute(0, 3, 1, 2).float()
        if dct is None:
            return (self.classifier.bare(pixels).logits,)
        return tuple(self.classifier(pixels, dct))


def _compiled(model: nn.Module, inputs: tuple[Tensor, ...], precision: torch.dtype) -> Any:
    """An inference request for inputs of exactly these shapes."""
    # An optional package that takes a second to import.
    from openvino import Core

    core = Core()
    # OpenVINO would silently compute in float32.
    if precision == torch.bfloat16 and "BF16" not in _capabilities(core):
        raise ValueError("OpenVINO has no bf16 on this CPU: use --precision fp32")
    properties = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # all workers of a node would pin to the same cores
    }
    try:
        converted = _converted(torch.export.export(model, inputs))
        compiled = core.compile_model(converted, "CPU", properties)
    except Exception as error:  # either library may reject any layer, with any type
        logger.debug("OpenVINO cannot run the model", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(
            f"OpenVINO cannot run this classifier: {reason}; use --engine torch"
        ) from error
    return compiled.create_infer_request()


def _capabilities(core: Any) -> list[str]:
    found: list[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _converted(program: torch.export.ExportedProgram) -> Any:
    """The program as an `openvino.Model` of static shapes.

    The steps of `openvino.convert_model`, which in addition sends telemetry, and logs a traceback
    for each operator that this version of PyTorch does not decompose.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    decompositions = torch.export.default_decompositions()
    for operator in ops_to_not_decompose():
        decompositions.pop(operator, None)
    graph = program.run_decompositions(decompositions).module()
    # In a variable: the front end does not keep its input alive.
    decoder = TorchFXPythonDecoder(graph, dynamic_shapes=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    return front_end.convert(front_end.load(decoder))
