"""A function compiled by TorchInductor for one batch size and, on CUDA, run as a CUDA graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WARM_UPS = 2  # the first compiles, the second brings the allocator to its steady state


class InductorModel:
    """Calls `function` on batches, compiled for one batch size; smaller batches are padded.

    Eager PyTorch makes a pass over memory for every bias, activation and sum, half of an
    EfficientNet's time on a GPU. It also launches hundreds of kernels per batch, each of which
    waits for the GIL while other threads read images; a CUDA graph is one launch.

    Not thread-safe. Creating one takes about fifteen seconds.

    Args:
        function: takes tensors with the images in the first dimension; no gradients.
        inputs: of the largest batch size, with any values. They become the static input buffers.
        backend: of torch.compile.

    Raises:
        ValueError: the function cannot be compiled or captured.
        torch.OutOfMemoryError: the device's memory does not suffice for such a batch.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        *,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._inputs = inputs
        compiled = torch.compile(function, dynamic=False, backend=backend)
        self._run: Callable[[], Tensor] = lambda: compiled(*inputs)
        try:
            with warnings.catch_warnings():
                # The only float32 matrix product is the head's, which should be exact.
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
                self._prepare()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler may fail in any part, with any type
            logger.debug("Inductor cannot run the model", exc_info=True)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"Inductor cannot run this classifier: {reason}; use --engine torch"
            ) from error

    @torch.inference_mode()
    def _prepare(self) -> None:
        device = self._inputs[0].device
        if device.type != "cuda":
            self._run()
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads, such as a decoder's, may call CUDA during the capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                recorded = self._run()
        torch.cuda.current_stream(device).wait_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return recorded

        self._run = replay

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result, for at most the largest batch size."""
        count = len(inputs[0])
        for own, given in zip(self._inputs, inputs, strict=True):
            own[:count].copy_(given, non_blocking=True)
        return self._run()[:count].clone()
