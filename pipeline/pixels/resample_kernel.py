"""The Numba kernel that resamples a window of an image to the size of the model's input.

It has no type annotations, because Numba ignores them.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.inference.numba_toolkit import kernel, part_of_kernel

_WHITE = np.float32(255)
_HALF = np.float32(0.5)  # added before truncation, to round


@part_of_kernel
def _triangle(x):
    return max(0.0, 1.0 - x)


@part_of_kernel
def _cubic(x):
    """Keys' cubic kernel with a = -1/2, as in Pillow."""
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@part_of_kernel
def _taps(start, end, samples, outputs, cubic):
    """The source samples and weights of each output pixel along one axis.

    start, end: the window, in source samples. samples: number of source samples. outputs: number of
    output pixels. When the image gets smaller, the filter is widened by the scale; samples outside
    the image are left out. Both are Pillow's rules.

    Returns:
        first sample of each output pixel, (outputs,) int64; number of samples, (outputs,) int64;
        weights, (outputs, an even number) float32, which add up to 1 and are padded with zeros.
    """
    scale = (end - start) / outputs
    filter_scale = max(scale, 1.0)
    support = filter_scale * (2.0 if cubic else 1.0)
    max_taps = int(2.0 * support) + 2
    firsts, counts = np.empty((2, outputs), np.int64)
    weights = np.zeros((outputs, max_taps + max_taps % 2), np.float32)
    for output in range(outputs):
        centre = start + (output + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        count = min(int(centre + support + 0.5), samples) - first
        total = 0.0
        for k in range(count):
            distance = abs(first + k + 0.5 - centre) / filter_scale
            weight = _cubic(distance) if cubic else _triangle(distance)
            weights[output, k] = weight
            total += weight
        for k in range(count):
            weights[output, k] /= total
        firsts[output], counts[output] = first, count
    return firsts, counts, weights


@part_of_kernel
def _grey_level(x):
    return np.uint8(min(max(x, np.float32(0)), _WHITE))


@kernel
def resample(picture, window, cubic, out) -> None:
    """Resample a window of one image.

    picture: (H, W, 3) uint8, contiguous. window: (top, left, bottom, right), float64 (4,), of
    positive size, inside the image. cubic: bicubic rather than bilinear. out: (h, w, 3) uint8,
    written to.

    The vertical pass comes first, because it works on whole rows, which are contiguous.
    """
    height, width, _ = picture.shape
    rows, columns, _ = out.shape
    tops, row_counts, row_weights = _taps(window[0], window[2], height, rows, cubic)
    lefts, column_counts, column_weights = _taps(window[1], window[3], width, columns, cubic)
    start, end = 3 * lefts[0], 3 * (lefts[columns - 1] + column_counts[columns - 1])
    samples = picture.reshape(height, 3 * width)
    line = np.empty(end - start, np.float32)
    for y in range(rows):
        line[:] = _HALF
        for k in range(0, row_counts[y], 2):
            upper = samples[tops[y] + k, start:end]
            lower = samples[min(tops[y] + k + 1, height - 1), start:end]
            upper_weight, lower_weight = row_weights[y, k], row_weights[y, k + 1]
            for i in range(line.size):
                line[i] += upper_weight * np.float32(upper[i]) + lower_weight * np.float32(lower[i])
        for x in range(columns):
            # Unsigned, or Numba would check for negative indices, which count from the end.
            at = np.uint64(3 * lefts[x] - start)
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for k in range(column_counts[x]):
                weight = column_weights[x, k]
                red += weight * line[at]
                green += weight * line[at + np.uint64(1)]
                blue += weight * line[at + np.uint64(2)]
                at += np.uint64(3)
            out[y, x, 0] = _grey_level(red)
            out[y, x, 1] = _grey_level(green)
            out[y, x, 2] = _grey_level(blue)
