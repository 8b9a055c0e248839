"""The Numba kernel of the 8x8 block DCT for CPUs; see `pipeline.pixels.block_dct`.

It has no type annotations, because Numba ignores them.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.dct import JFIF_RGB_TO_YCBCR, LEVEL_SHIFT, dct_basis
from afd_model.inference.numba_toolkit import kernel, part_of_kernel

_SHIFT = np.float32(LEVEL_SHIFT)
_EVEN, _ODD = (tuple(map(np.float32, dct_basis()[k::2, :4].flatten().tolist())) for k in (0, 1))
_COLOUR = tuple(np.float32(factor) for row in JFIF_RGB_TO_YCBCR for factor in row)


@part_of_kernel
def _dct(samples):
    """The orthonormal DCT-II of eight samples (T.81 A.3.3), by its symmetries: 22 products, not 64.

    Even frequencies depend on the sums of mirrored samples, odd ones on their differences.
    """
    a, b, c, d, e, f, g, h = samples
    outer, inner = a + h + (d + e), b + g + (c + f)
    p, q = a + h - (d + e), b + g - (c + f)
    a, b, c, d = a - h, b - g, c - f, d - e
    return (
        (outer + inner) * _EVEN[0],
        a * _ODD[0] + b * _ODD[1] + c * _ODD[2] + d * _ODD[3],
        p * _EVEN[4] + q * _EVEN[5],
        a * _ODD[4] + b * _ODD[5] + c * _ODD[6] + d * _ODD[7],
        (outer - inner) * _EVEN[8],
        a * _ODD[8] + b * _ODD[9] + c * _ODD[10] + d * _ODD[11],
        p * _EVEN[12] + q * _EVEN[13],
        a * _ODD[12] + b * _ODD[13] + c * _ODD[14] + d * _ODD[15],
    )


@part_of_kernel
def _shifted(level):
    return np.float32(level) - _SHIFT


@part_of_kernel
def _transform_columns(rows, out) -> None:
    """The vertical transform: rows (8, N) uint8, shifted -> out (8, N)."""
    a, b, c, d, e, f, g, h = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for i in range(out.shape[1]):
        upper = _shifted(a[i]), _shifted(b[i]), _shifted(c[i]), _shifted(d[i])
        lower = _shifted(e[i]), _shifted(f[i]), _shifted(g[i]), _shifted(h[i])
        found = _dct(upper + lower)
        for u in range(8):
            out[u, i] = found[u]


@part_of_kernel
def _four(samples, at):
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    return samples[at], samples[at + one], samples[at + two], samples[at + three]


@part_of_kernel
def _transform_rows(samples, out) -> None:
    """The horizontal transform: samples (N * 8,) -> out (8, N)."""
    for i in range(out.shape[1]):
        # Unsigned, or Numba would check for negative indices, which count from the end.
        at = np.uint64(8 * i)
        found = _dct(_four(samples, at) + _four(samples, at + np.uint64(4)))
        for u in range(8):
            out[u, i] = found[u]


@part_of_kernel
def _convert_colour(rgb, y, cb, cr) -> None:
    """rgb (N * 3,) -> y, cb, cr (N,)."""
    for i in range(y.size):
        red, green, blue = (
            rgb[np.uint64(3 * i)],
            rgb[np.uint64(3 * i + 1)],
            rgb[np.uint64(3 * i + 2)],
        )
        y[i] = _COLOUR[0] * red + _COLOUR[1] * green + _COLOUR[2] * blue
        cb[i] = _COLOUR[3] * red + _COLOUR[4] * green + _COLOUR[5] * blue
        cr[i] = _COLOUR[6] * red + _COLOUR[7] * green + _COLOUR[8] * blue


@kernel
def transform_blocks(images, place, out) -> None:
    """images (B, side, side * 3) uint8 -> out (B, 192, (side / 8)^2) float32.

    place: zigzag index of each coefficient in row-major order, (64,) int64.
    Every loop goes over whole rows, or over all blocks of an image, and is vectorised.
    """
    _, side, width = images.shape
    blocks = side // 8
    columns = np.empty((8, width), np.float32)
    # By vertical frequency: (component, frequency, row of blocks, column of pixels).
    components = np.empty((3, 8, blocks, side), np.float32)
    found = np.empty((8, blocks * blocks), np.float32)
    for b in range(images.shape[0]):
        for row in range(blocks):
            _transform_columns(images[b, 8 * row : 8 * row + 8], columns)
            for v in range(8):
                y, cb, cr = components[0, v, row], components[1, v, row], components[2, v, row]
                _convert_colour(columns[v], y, cb, cr)
        for component in range(3):
            for v in range(8):
                _transform_rows(components[component, v].reshape(blocks * side), found)
                for u in range(8):
                    coefficients = out[b, 64 * component + place[8 * v + u]]
                    for i in range(coefficients.size):
                        coefficients[i] = found[u, i]
