"""The classifier compiled by OpenVINO for a CPU: the same layers in fewer and faster passes."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from afd_model.classifier import AFDClassifier, ClassifierOutput

logger = logging.getLogger(__name__)

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINOModel:
    """Called as an `AFDClassifier` is, for one size of images.

    One instance serves one thread at a time. Making one takes seconds: the model is exported,
    converted and compiled.

    Args:
        classifier: ready to run, in float32 on the CPU; it is only read.
        num_images: of a call; fewer are filled up with blank ones, whose results are dropped.
        side: height and width of the images, pixels.
        precision: of the pixels; float32, or bfloat16 for the layers' inputs and weights as well.
            Logits are float32 sums in both.

    Raises:
        ValueError: OpenVINO is not installed, has no equal of a layer, or the CPU no bfloat16.
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
        self._fde_net = classifier.afd.fde_net if classifier.afd else None
        inputs = [torch.zeros(num_images, side, side, 3, dtype=precision)]
        if self._fde_net:
            # OpenVINO takes logarithms one number at a time.
            self._fde_net.prepares = False
            inputs.append(torch.zeros(num_images, 192, side // 8, side // 8))
        self._request = _compiled(_Outputs(classifier).eval(), tuple(inputs), precision)

    def __call__(self, pixels: Tensor, dct: Tensor) -> ClassifierOutput:
        """See `AFDClassifier.forward`; at most `num_images` images, the DCT in float32.

        Pixels in channels_last are taken from where they are.
        """
        count = pixels.shape[0]
        inputs = [pixels.permute(0, 2, 3, 1)]
        if self._fde_net:
            inputs.append(self._fde_net.prepared(dct))
        results = self._request.infer([self._filled(x) for x in inputs], share_inputs=True)
        # A copy: the next call writes to the same memory.
        outputs = [torch.from_numpy(array[:count].copy()) for array in results.values()]
        if self._fde_net:
            return ClassifierOutput(*outputs)
        zero = torch.zeros(count)
        return ClassifierOutput(outputs[0], zero, zero)

    def _filled(self, x: Tensor) -> Any:
        """(B, ...) -> (num_images, ...), as OpenVINO's tensor in C order."""
        import openvino as ov

        blank = self._num_images - x.shape[0]
        if blank:
            x = torch.cat([x, x.new_zeros(blank, *x.shape[1:])])
        x = x.contiguous()
        if x.dtype == torch.bfloat16:  # which NumPy does not know
            return ov.Tensor(x.view(torch.uint16).numpy(), ov.Shape(x.shape), ov.Type.bf16)
        return ov.Tensor(x.numpy(), shared_memory=True)


class _Outputs(nn.Module):
    """What is exported: without a module its zeros for the drift are no part of the graph."""

    def __init__(self, classifier: AFDClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor, dct: Tensor | None = None) -> tuple[Tensor, ...]:
        """pixels: (B, H, W, 3), as the decoder has them in memory."""
        pixels = pixels.permute(0, 3, 1, 2).float()
        if dct is None:
            return (self.classifier.bare(pixels).logits,)
        return tuple(self.classifier.forward_for_compiler(pixels, dct))


def _compiled(model: nn.Module, inputs: tuple[Tensor, ...], precision: torch.dtype) -> Any:
    """An inference request of the model for inputs of these very shapes."""
    # An optional package, and a second to import.
    from openvino import Core

    core = Core()
    # It would compute in float32 and say nothing.
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
    except Exception as error:  # any layer of either library may refuse
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
    """The program as an `openvino.Model`, of the program's own shapes.

    What `openvino.convert_model` does, which also reports its use to OpenVINO's makers and logs a
    traceback for each operator that this PyTorch does not decompose.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    decompositions = torch.export.default_decompositions()
    for operator in ops_to_not_decompose():
        decompositions.pop(operator, None)
    graph = program.run_decompositions(decompositions).module()
    # Held here: the front end does not keep what it reads from.
    decoder = TorchFXPythonDecoder(graph, dynamic_shapes=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    return front_end.convert(front_end.load(decoder))
