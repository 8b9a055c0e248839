"""Numba kernels of FDE-Net: the logarithms of the DCT coefficients, and its first layer.

Written as `afd_model.inference.numba_kernels`, whose changes Numba's cache does not notice here.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.inference.numba_kernels import kernel, part_of_kernel, polynomial, stored

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
def take_hidden(dct, weight, bias, found) -> None:
    """relu(weight @ log(1 + |dct|) + bias).

    dct: (B, K, N) float32; weight: (C, K) float32; bias: (C,) float32; found: (B, C, N) float32 or
    bfloat16.
    """
    batch, inputs, places = dct.shape
    outputs = bias.size
    logs = np.empty(places, np.float32)
    sums = np.empty((outputs, places), np.float32)
    for b in range(batch):
        for c in range(outputs):
            sums[c, :] = bias[c]
        for k in range(inputs):
            for i in range(places):
                logs[i] = _log_magnitude(dct[b, k, i])
            for c in range(outputs):
                by = weight[c, k]
                for i in range(places):
                    sums[c, i] += by * logs[i]
        for c in range(outputs):
            for i in range(places):
                x = sums[c, i]
                x = np.float32(0) if x < np.float32(0) else x  # False for NaN, which stays NaN
                found[b, c, i] = stored(x, found[b, c, i])
