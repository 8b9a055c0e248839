"""A function of batches compiled by PyTorch's Inductor and, on CUDA, replayed as one graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WARM_UPS = 2  # the first compiles, the second takes the memory that the first left


class InductorBatches:
    """`function`, compiled for one number of images; fewer are computed as if they were so many.

    Layer by layer PyTorch takes a pass over memory for every bias, activation and sum: of an
    EfficientNet's time on a GPU that is half. And it launches hundreds of kernels a batch, for each
    of which the interpreter's lock is to be had again from the threads that read images; a graph of
    them all is launched once.

    One instance serves one thread at a time. Making one takes some fifteen seconds.

    Args:
        function: of tensors that have the images in their first dimension, without gradients.
        inputs: as large as they get, whatever they hold; they are kept, and written to.
        backend: torch.compile's.

    Raises:
        ValueError: the function cannot be compiled, or recorded.
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
                # The only float32 products are of the head, which is to be exact.
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
                self._prepare()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any layer of the compiler may refuse
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
            # Other threads, such as a decoder's, may go on with what a recording would forbid.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                recorded = self._run()
        torch.cuda.current_stream(device).wait_stream(stream)

        def replay() -> Tensor:
            graph.replay()
            return recorded

        self._run = replay

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result for at most as many images."""
        count = len(inputs[0])
        for own, given in zip(self._inputs, inputs, strict=True):
            own[:count].copy_(given, non_blocking=True)
        return self._run()[:count].clone()
