"""What PyTorch takes many passes for on a CPU, compiled by Numba into one.

The end of the AFD-Module and its drift scores: PyTorch takes a pass of its own to enlarge the map,
to gate, to add, to clamp and for each sum of the drift, about twenty over maps that no cache holds,
as long as half of a light backbone. And what comes before: the logarithm of the DCT's magnitudes,
the pixels' normalisation.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.compiled import compiled, in_threads, part_of_kernel, rows_of, stored, widened
from afd_model.drift import Drift
from afd_model.fde_net import log_magnitude

_TINY = np.finfo(np.float32).tiny
_QUARTER, _HALF = np.float32(np.pi / 2), np.float32(np.pi)  # of a turn, and half of one
DTYPES = (torch.bfloat16, torch.float32)


def enhance_and_score(
    module: AFDModule, features: Tensor, dct: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Drift]:
    """What `module` and `drift` give, the gate and the sums in float32; an `Enhance`.

    Args:
        module: on the CPU, without gradients.
        features: (B, C, H, W) bfloat16 or float32, the stem's output; fastest in channels_last.
        dct: (B, 192, h, w) as `block_dct` gives it, any floating dtype.
        out: like `features`, to be overwritten, in channels_last; None: makes one.

    Returns:
        enhanced (B, C, H, W), of the features' dtype, in channels_last; the drift between both.

    Raises:
        ValueError: another dtype.
    """
    if features.dtype not in DTYPES:
        raise ValueError(f"features are bfloat16 or float32 here, not {features.dtype}")
    features = features.contiguous(memory_format=torch.channels_last)
    correction, gate = _correction(module, features, dct)
    enhanced = torch.empty_like(features) if out is None else out
    scores = torch.empty(2, features.shape[0])
    maps = [rows_of(x) for x in (features, correction, enhanced)]
    gates = None if gate is None else _gates(gate, features.shape[1])
    limits = _limits(module.config.output_min, module.config.output_max)

    def of_images(part: slice) -> None:
        before, moved_by, after = (rows[part] for rows in maps)
        angle, energy = scores[:, part].numpy()
        gate_of_part = None if gates is None else gates[part]
        _add_gated(before, moved_by, gate_of_part, limits, after, angle, energy)

    in_threads(of_images, features.shape[0])
    return enhanced, Drift(torch.rad2deg(scores[0]), scores[1])


def _correction(module: AFDModule, features: Tensor, dct: Tensor) -> tuple[Tensor, Tensor | None]:
    """`AFDModule.correction`; where it is narrow features that are gated, by a kernel."""
    if module.config.fdm_on == "output":
        return module.correction(features, dct)
    narrow = module.fe_net.encode(features).contiguous(memory_format=torch.channels_last)
    gates = _gates(module.fde_net.gate(dct), narrow.shape[1])
    gated = torch.empty_like(narrow)
    before, after = rows_of(narrow), rows_of(gated)
    in_threads(lambda part: _gate(before[part], gates[part], after[part]), len(before))
    return module.fe_net.decode(gated, (features.shape[2], features.shape[3])), None


def _gates(gate: Tensor, channels: int) -> np.ndarray:
    """(B, channels or 1, h, w) -> (B, h, w, channels) float32."""
    return rows_of(gate.float().expand(-1, channels, -1, -1))


def _limits(low: float | None, high: float | None) -> tuple[np.float32, np.float32]:
    return np.float32(-np.inf if low is None else low), np.float32(np.inf if high is None else high)


def log_magnitude_by_table(dct: Tensor, dtype: torch.dtype) -> Tensor:
    """`log_magnitude`, for bfloat16 looked up at the magnitude rounded to bfloat16.

    There are 32,768 of those; a logarithm takes three times as long as the look-up.
    """
    if dtype != torch.bfloat16 or dct.dtype != torch.float32:
        return log_magnitude(dct, dtype)
    dct = dct.contiguous()
    logs = torch.empty(dct.shape, dtype=torch.bfloat16)
    bits, found, table = dct.view(torch.uint32), logs.view(torch.uint16), _logarithms()

    def of_images(part: slice) -> None:
        _look_up(bits[part].flatten().numpy(), table, found[part].flatten().numpy())

    in_threads(of_images, dct.shape[0])
    return logs


@cache
def _logarithms() -> np.ndarray:
    """bfloat16's bits of log(1 + x) by those of x >= 0."""
    magnitudes = torch.arange(1 << 15).to(torch.uint16).view(torch.bfloat16)
    bits: np.ndarray = magnitudes.float().log1p().bfloat16().view(torch.uint16).numpy()
    return bits


def scale_rows(rows: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """rows * scale + shift, in float32, rounded to `out`'s dtype.

    In one thread: the decoder's are at work meanwhile, and each step of PyTorch's would wait for
    all of its own.

    Args:
        rows: (R, N) uint8. scale, shift: (N,) float32.
        out: (R, N) float32 or bfloat16, contiguous, to be overwritten.
    """
    numbers = out.view(torch.uint16) if out.dtype == torch.bfloat16 else out
    _scale(rows.numpy(), scale.numpy(), shift.numpy(), numbers.numpy())


# From here on Numba's, without annotations; an argument that is None is decided on when compiling.


@compiled
def _look_up(bits, table, found) -> None:  # type: ignore[no-untyped-def]
    """bits: (N,) uint32, float32's; table: (32768,) uint16; found: (N,) uint16."""
    for i in range(bits.size):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        # Half of the last place up; a NaN with all bits set must not pass the end.
        found[i] = table[min((magnitude + np.uint32(0x8000)) >> np.uint32(16), np.uint32(0x7FFF))]


@compiled
def _scale(rows, scale, shift, out) -> None:  # type: ignore[no-untyped-def]
    """See `scale_rows`; out: float32 or bfloat16's bits."""
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            out[r, i] = stored(np.float32(rows[r, i]) * scale[i] + shift[i], out[r, i])


@part_of_kernel
def _between(place, places, samples):  # type: ignore[no-untyped-def]
    """The samples on both sides of a place, and how far it is from the first to the second."""
    at = np.float32(samples / places) * (np.float32(place) + np.float32(0.5)) - np.float32(0.5)
    at = max(at, np.float32(0))
    first = min(int(at), samples - 1)
    return first, min(first + 1, samples - 1), at - np.float32(first)


@part_of_kernel
def _columns(width, samples):  # type: ignore[no-untyped-def]
    """`_between` of every column: (W,) each."""
    firsts, seconds = np.empty((2, width), np.int64)
    shares = np.empty(width, np.float32)
    for x in range(width):
        firsts[x], seconds[x], shares[x] = _between(x, width, samples)
    return firsts, seconds, shares


@part_of_kernel
def _enlarge_down(gate, y, height, out) -> None:  # type: ignore[no-untyped-def]
    """Row y of a gate (h, w, C), were it enlarged to so many rows: out (w, C)."""
    upper, lower, share = _between(y, height, gate.shape[0])
    for x in range(out.shape[0]):
        for c in range(out.shape[1]):
            above = gate[upper, x, c]
            out[x, c] = above + share * (gate[lower, x, c] - above)


@compiled
def _gate(features, gate, out) -> None:  # type: ignore[no-untyped-def]
    """features * gate, enlarged as `F.interpolate(mode="bilinear")` does.

    features, out: (B, H, W, C), float32 or bfloat16's bits; gate: (B, h, w, C) float32.
    """
    batch, height, width, channels = features.shape
    gates = np.empty((gate.shape[2], channels), np.float32)
    lefts, rights, shares = _columns(width, gate.shape[2])
    for b in range(batch):
        for y in range(height):
            _enlarge_down(gate[b], y, height, gates)
            for x in range(width):
                left, right, share = lefts[x], rights[x], shares[x]
                for c in range(channels):
                    by = gates[left, c] + share * (gates[right, c] - gates[left, c])
                    feature = features[b, y, x, c]
                    out[b, y, x, c] = stored(widened(feature) * by, feature)


@compiled
def _add_gated(  # type: ignore[no-untyped-def]
    features, correction, gate, limits, enhanced, angle, energy
) -> None:
    """features + correction * gate within the limits, and the drift.

    features, correction, enhanced: (B, H, W, C), float32 or bfloat16's bits; gate: (B, h, w, C)
    float32, enlarged as in `_gate`, or None; angle: (B,) float32, radians; energy: (B,) float32.
    """
    batch, height, width, channels = features.shape
    low, high = limits
    nothing = np.float32(0)
    norms, dots, moves = np.empty((3, width), np.float32)
    if gate is not None:  # decided when compiling, here and below
        gates = np.empty((gate.shape[2], channels), np.float32)
        lefts, rights, shares = _columns(width, gate.shape[2])
    for b in range(batch):
        whole, moved_in_all, turned, weight = 0.0, 0.0, 0.0, 0.0
        for y in range(height):
            if gate is not None:
                _enlarge_down(gate[b], y, height, gates)
            for x in range(width):
                if gate is not None:
                    left, right, share = lefts[x], rights[x], shares[x]
                norm, dot, move = nothing, nothing, nothing
                for c in range(channels):
                    before = widened(features[b, y, x, c])
                    step = widened(correction[b, y, x, c])
                    if gate is not None:
                        step *= gates[left, c] + share * (gates[right, c] - gates[left, c])
                    after = before + step
                    after = low if after < low else after
                    after = high if after > high else after
                    enhanced[b, y, x, c] = stored(after, features[b, y, x, c])
                    moved = after - before  # before it is rounded: what the module meant
                    norm += before * before
                    dot += before * moved
                    move += moved * moved
                norms[x], dots[x], moves[x] = norm, dot, move
            whole += norms.sum()
            moved_in_all += moves.sum()
            row_turned, row_weight = _turn(norms, dots, moves)
            turned += row_turned
            weight += row_weight
        energy[b] = np.sqrt(moved_in_all / whole) if whole != 0 else 0.0
        angle[b] = turned / weight if weight != 0 else 0.0


@part_of_kernel
def _turn(norms, dots, moves):  # type: ignore[no-untyped-def]
    """How far a row's f^ is turned from f, in radians, times |f^|, and |f^|, both summed.

    norms, dots, moves: (W,) float32, |f|^2, <f, f^ - f> and |f^ - f|^2.

    Split as in `afd_model.drift`, whose arc tangent this is to 2e-8: Abramowitz and Stegun 4.4.49.
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
        series = np.float32(0.0028662257)
        series = series * s + np.float32(-0.0161657367)
        series = series * s + np.float32(0.0429096138)
        series = series * s + np.float32(-0.0752896400)
        series = series * s + np.float32(0.1065626393)
        series = series * s + np.float32(-0.1420889944)
        series = series * s + np.float32(0.1999355085)
        series = series * s + np.float32(-0.3333314528)
        angle = t + t * s * series
        angle = _QUARTER - angle if across > abs(ahead) else angle
        angle = _HALF - angle if ahead < np.float32(0) else angle
        weight = np.sqrt(max(norms[x] + 2 * dots[x] + moves[x], np.float32(0)))
        turned += angle * weight if norm > np.float32(0) else np.float32(0)
        weights += weight
    return turned, weights
