"""Numba kernels of FDE-Net: the logarithms of the DCT coefficients, and its first layer.

See `afd_model.inference.numba_toolkit`. `afd_model.inference.cpu_kernels` calls them.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.inference.numba_toolkit import kernel, part_of_kernel, polynomial, stored

_BITS_OF_ONE = np.uint32(0x3F800000)
_LOG_2 = np.float32(np.log(2))
# Abramowitz and Stegun 4.1.44, highest power first: log(1 + t) / t for t in 0..1, error 3e-8.
_LOG1P_SERIES = (
    *(-0.0064535442, 0.0360884937, -0.0953293897, 0.1676540711),
    *(-0.2407338084, 0.3317990258, -0.4998741238, 0.9999964239),
)


@part_of_kernel
def _log_magnitude(x):
    """log(1 + |x|) of a float32."""
    magnitude = abs(x)
    bits = np.float32(np.float32(1) + magnitude).view(np.uint32)
    exponent = np.int32(bits >> np.uint32(23)) - np.int32(127)
    # The mantissa: 1 + t in 1..2.
    t = np.uint32((bits & np.uint32(0x007FFFFF)) | _BITS_OF_ONE).view(np.float32) - np.float32(1)
    logarithm = np.float32(exponent) * _LOG_2 + t * polynomial(_LOG1P_SERIES, t)
    return logarithm if magnitude < np.float32(np.inf) else magnitude


@kernel
def take_logarithms(numbers, found) -> None:
    """log(1 + |x|): numbers (N,) float32 -> found (N,) bfloat16."""
    for i in range(numbers.size):
        found[i] = stored(_log_magnitude(numbers[i]), found[i])


@kernel
def take_gate(dct, hidden, local, pooled, channels, found) -> None:
    """The FDM before its sigmoid.

    dct: (B, N, P) float32; hidden, local, pooled: weight (out, in) and bias (out,) float32 of
    `FDENet`'s convolutions, pooled may be None; channels: a tuple with as many elements as
    `hidden` has outputs, since Numba knows a tuple's length when it compiles; found: (B, K, P)
    float32.
    """
    batch, inputs, places = dct.shape
    weight, bias = hidden
    activations = np.empty((len(channels), places), np.float32)
    for b in range(batch):
        for c in range(len(channels)):
            activations[c, :] = bias[c]
        for n in range(inputs):
            for i in range(places):
                logarithm = _log_magnitude(dct[b, n, i])
                for c in range(len(channels)):
                    activations[c, i] += weight[c, n] * logarithm
        for k in range(found.shape[1]):
            found[b, k, :] = local[1][k]
        for c in range(len(channels)):
            for i in range(places):
                x = activations[c, i]
                # False for NaN, which stays NaN.
                activations[c, i] = np.float32(0) if x < np.float32(0) else x
            mean = activations[c].mean()
            for k in range(found.shape[1]):
                share = np.float32(0) if pooled is None else pooled[0][k, c] * mean
                by = local[0][k, c]
                for i in range(places):
                    found[b, k, i] += by * activations[c, i] + share
        if pooled is not None:  # decided at compile time
            for k in range(found.shape[1]):
                found[b, k, :] += pooled[1][k]
