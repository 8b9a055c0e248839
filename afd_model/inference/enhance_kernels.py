"""Numba kernels of the AFD-Module's end: the FDM's resizing and gating, the sum and its drift.

See `afd_model.inference.numba_toolkit`. `afd_model.inference.cpu_kernels` calls them.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.inference.numba_toolkit import (
    kernel,
    part_of_kernel,
    polynomial,
    stored,
    widened,
)

_TINY = np.finfo(np.float32).tiny
_HALF_PI, _PI = np.float32(np.pi / 2), np.float32(np.pi)
# Abramowitz and Stegun 4.4.49, highest power first: (arctan(t) / t - 1) / t^2 in powers of t^2, for
# t in 0..1; error of arctan 2e-8.
_ARCTAN_SERIES = (
    *(0.0028662257, -0.0161657367, 0.0429096138, -0.0752896400),
    *(0.1065626393, -0.1420889944, 0.1999355085, -0.3333314528),
)


@part_of_kernel
def _between(place, places, samples):
    """Bilinear resizing: the two samples around an output position, and the second's weight."""
    at = np.float32(samples / places) * (np.float32(place) + np.float32(0.5)) - np.float32(0.5)
    at = max(at, np.float32(0))
    first = min(int(at), samples - 1)
    return first, min(first + 1, samples - 1), at - np.float32(first)


@part_of_kernel
def _columns(width, samples):
    """`_between` for every column: (W,) each."""
    firsts, seconds = np.empty((2, width), np.int64)
    shares = np.empty(width, np.float32)
    for x in range(width):
        firsts[x], seconds[x], shares[x] = _between(x, width, samples)
    return firsts, seconds, shares


@part_of_kernel
def _resize_row(gate, y, height, out) -> None:
    """Row y of a gate (h, w, C) resized vertically to `height` rows: out (w, C)."""
    upper, lower, share = _between(y, height, gate.shape[0])
    for x in range(out.shape[0]):
        for c in range(out.shape[1]):
            above = gate[upper, x, c]
            out[x, c] = above + share * (gate[lower, x, c] - above)


@part_of_kernel
def _gate_row(features, gates, columns, out) -> None:
    """out (W, C) = features (W, C) * gates (w, C), resized horizontally by `_columns`."""
    lefts, rights, shares = columns
    for x in range(features.shape[0]):
        left, right, share = lefts[x], rights[x], shares[x]
        for c in range(features.shape[1]):
            by = gates[left, c] + share * (gates[right, c] - gates[left, c])
            out[x, c] = stored(widened(features[x, c]) * by, out[x, c])


@kernel
def apply_gate(features, gate, out) -> None:
    """out = features * gate, the gate resized as by `F.interpolate(mode="bilinear")`.

    features, out: (B, H, W, C) float32 or bfloat16; gate: (B, h, w, C) float32.
    """
    batch, height, width, channels = features.shape
    gates = np.empty((gate.shape[2], channels), np.float32)
    columns = _columns(width, gate.shape[2])
    for b in range(batch):
        for y in range(height):
            _resize_row(gate[b], y, height, gates)
            _gate_row(features[b, y], gates, columns, out[b, y])


@kernel
def add_gated(features, correction, gate, limits, enhanced, angle, energy) -> None:
    """enhanced = clamp(features + correction * gate, limits), and the drift scores.

    features, correction, enhanced: (B, H, W, C) float32 or bfloat16; gate: (B, h, w, C) float32,
    resized as in `apply_gate`, or None for 1; angle, in radians, and energy: (B,) float32.
    """
    batch, height, width, channels = features.shape
    nothing = np.float32(0)
    norms, dots, moves = np.empty((3, width), np.float32)
    if gate is not None:  # decided at compile time, here and below
        gates = np.empty((gate.shape[2], channels), np.float32)
        lefts, rights, shares = _columns(width, gate.shape[2])
    for b in range(batch):
        totals = (0.0, 0.0, 0.0, 0.0)
        for y in range(height):
            if gate is not None:
                _resize_row(gate[b], y, height, gates)
            for x in range(width):
                if gate is not None:
                    left, right, share = lefts[x], rights[x], shares[x]
                sums = (nothing, nothing, nothing)
                for c in range(channels):
                    before = widened(features[b, y, x, c])
                    step = widened(correction[b, y, x, c])
                    if gate is not None:
                        step *= gates[left, c] + share * (gates[right, c] - gates[left, c])
                    after, sums = _moved(before, step, limits, sums)
                    enhanced[b, y, x, c] = stored(after, features[b, y, x, c])
                norms[x], dots[x], moves[x] = sums
            totals = _with_row(totals, norms, dots, moves)
        angle[b], energy[b] = _scores(totals)


@kernel
def add_decoded(features, narrow, gate, weight, sizes, limits, enhanced, angle, energy) -> None:
    """`add_gated` where the correction is a transposed convolution of `narrow`, after gating it.

    narrow: (B, h, w, K) float32 or bfloat16; gate: (B, any, any, K) float32, resized to h x w;
    weight: (r, K, r * C) float32, of the convolution of r x r with stride r, by row and by column
    and output channel; sizes: tuples of C, K and r * C elements. A tuple's length is known when
    Numba compiles: with those of arrays, LLVM neither unrolls nor vectorises well (twice the time).
    """
    batch, height, width, _ = features.shape
    channels, inputs, lanes = len(sizes[0]), len(sizes[1]), len(sizes[2])
    reduction = weight.shape[0]
    narrow_height, narrow_width = narrow.shape[1:3]
    nothing = np.float32(0)
    norms, dots, moves = np.empty((3, width), np.float32)
    gates = np.empty((gate.shape[2], inputs), np.float32)
    columns = _columns(narrow_width, gate.shape[2])
    gated = np.empty((narrow_width, inputs), np.float32)
    steps = np.empty(narrow_width * lanes, np.float32)
    for b in range(batch):
        totals = (0.0, 0.0, 0.0, 0.0)
        for y in range(height):
            row = y % reduction
            if row == 0:
                _resize_row(gate[b], y // reduction, narrow_height, gates)
                _gate_row(narrow[b, y // reduction], gates, columns, gated)
            _decode_row(gated, weight[row], inputs, lanes, steps)
            for x in range(width):
                sums = (nothing, nothing, nothing)
                for c in range(channels):
                    before, step = widened(features[b, y, x, c]), steps[x * channels + c]
                    after, sums = _moved(before, step, limits, sums)
                    enhanced[b, y, x, c] = stored(after, features[b, y, x, c])
                norms[x], dots[x], moves[x] = sums
            totals = _with_row(totals, norms, dots, moves)
        angle[b], energy[b] = _scores(totals)


@part_of_kernel
def _decode_row(gated, weight, inputs, lanes, steps) -> None:
    """A product of matrices: gated (w, K), weight (K, N) -> steps (w * N,)."""
    for x in range(gated.shape[0]):
        for i in range(lanes):
            step = np.float32(0)
            for k in range(inputs):
                step += gated[x, k] * weight[k, i]
            steps[x * lanes + i] = step


@part_of_kernel
def _moved(before, step, limits, sums):
    """One channel of one position, moved; and the position's sums with it, see `_turn`."""
    low, high = limits
    norm, dot, move = sums
    after = before + step
    after = low if after < low else after
    after = high if after > high else after
    moved = after - before  # before rounding to the storage type
    return after, (norm + before * before, dot + before * moved, move + moved * moved)


@part_of_kernel
def _with_row(totals, norms, dots, moves):
    """An image's sums of |f|^2, |d|^2, angle * |f^| and |f^|, with one row added; see `_turn`."""
    turned, weight = _turn(norms, dots, moves)
    whole, moved, all_turned, all_weight = totals
    return whole + norms.sum(), moved + moves.sum(), all_turned + turned, all_weight + weight


@part_of_kernel
def _scores(totals):
    """Angle, in radians, and energy of one image."""
    whole, moved, turned, weight = totals
    angle = turned / weight if weight != 0 else 0.0
    return angle, np.sqrt(moved / whole) if whole != 0 else 0.0


@part_of_kernel
def _turn(norms, dots, moves):
    """Sums over a row of angle * |f^|, in radians, and of |f^|.

    norms, dots, moves: (W,) float32: |f|^2, <f, d> and |d|^2, with d = f^ - f; see
    `afd_model.drift`.
    """
    turned, weights = np.float32(0), np.float32(0)
    for x in range(norms.size):
        norm, move = np.sqrt(norms[x]), np.sqrt(moves[x])
        along = dots[x] / max(norm, _TINY)
        across = np.sqrt(max((move - along) * (move + along), np.float32(0)))
        ahead = norm + along
        longer = max(across, abs(ahead))
        t = min(across, abs(ahead)) / max(longer, _TINY)
        s = t * t
        angle = t + t * s * polynomial(_ARCTAN_SERIES, s)
        angle = _HALF_PI - angle if across > abs(ahead) else angle
        angle = _PI - angle if ahead < np.float32(0) else angle
        weight = np.sqrt(max(norms[x] + 2 * dots[x] + moves[x], np.float32(0)))
        turned += angle * weight if norm > np.float32(0) else np.float32(0)
        weights += weight
    return turned, weights
