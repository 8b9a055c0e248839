"""What PyTorch takes many passes for on a CPU, compiled by Numba into one.

The end of the AFD-Module and its drift scores: PyTorch takes a pass of its own to enlarge the map,
to gate, to add, to clamp and for each sum of the drift, about twenty over maps that no cache holds,
as long as half of a light backbone. And what comes before: the logarithm of the DCT's magnitudes,
the pixels' normalisation.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from afd_model.afd_module import AFDModule
from afd_model.drift import Drift, mean_angle_deg
from afd_model.fde_net import log_magnitude

# Sums may be reordered, as vectors need it; a NaN stays a NaN.
_REORDERED = {"reassoc", "contract", "nsz", "arcp"}
_TINY = np.finfo(np.float32).tiny
DTYPES = (torch.bfloat16, torch.float32)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The function compiled at its first call, for this machine, and kept for the next process."""
    make = partial(numba.njit, nogil=True, fastmath=_REORDERED, error_model="numpy")
    compiled: Callable[..., None]
    try:
        compiled = make(cache=True)(function)
    except RuntimeError:  # no folder to keep it in: neither beside this file nor of the user's
        compiled = make()(function)
    return compiled


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
    correction, gate = module.correction(features, dct)
    enhanced = torch.empty_like(features) if out is None else out
    batch, _, height, width = features.shape
    turns = torch.empty(3, batch, height, width)
    energies = torch.empty(batch)
    low, high = module.config.output_min, module.config.output_max
    limits = (
        np.float32(-np.inf if low is None else low),
        np.float32(np.inf if high is None else high),
    )
    maps = [_rows(x) for x in (features, correction, enhanced)]
    gates = None
    if gate is not None:
        gate = gate.float().expand(batch, features.shape[1], -1, -1)
        gates = gate.permute(0, 2, 3, 1).contiguous().numpy()

    def of_images(part: slice) -> None:
        before, moved_by, after = (rows[part] for rows in maps)
        across, ahead, weights = turns[:, part].numpy()
        energy = energies[part].numpy()
        gate_of_part = None if gates is None else gates[part]
        _add_gated(before, moved_by, gate_of_part, limits, after, across, ahead, weights, energy)

    _in_threads(of_images, batch)
    return enhanced, Drift(mean_angle_deg(*turns), energies)


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

    _in_threads(of_images, dct.shape[0])
    return logs


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


@_compiled
def _scale(rows, scale, shift, out) -> None:  # type: ignore[no-untyped-def]
    """See `scale_rows`; out: float32 or bfloat16's bits."""
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            out[r, i] = _stored(np.float32(rows[r, i]) * scale[i] + shift[i], out[r, i])


@cache
def _logarithms() -> np.ndarray:
    """bfloat16's bits of log(1 + x) by those of x >= 0."""
    magnitudes = torch.arange(1 << 15).to(torch.uint16).view(torch.bfloat16)
    bits: np.ndarray = magnitudes.float().log1p().bfloat16().view(torch.uint16).numpy()
    return bits


@_compiled
def _look_up(bits, table, found) -> None:  # type: ignore[no-untyped-def]
    """bits: (N,) uint32, float32's; table: (32768,) uint16; found: (N,) uint16."""
    for i in range(bits.size):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        # Half of the last place up; a NaN with all bits set must not pass the end.
        found[i] = table[min((magnitude + np.uint32(0x8000)) >> np.uint32(16), np.uint32(0x7FFF))]


def _rows(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C), bfloat16 as its bits (NumPy has none)."""
    rows = x.permute(0, 2, 3, 1).contiguous()
    return (rows.view(torch.uint16) if x.dtype == torch.bfloat16 else rows).numpy()


def _in_threads(work: Callable[[slice], None], count: int) -> None:
    """Does `work` for slices of range(count), in as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(slice(0, count))
        return
    bounds = [count * number // threads for number in range(threads + 1)]
    for _ in _pool(threads).map(work, map(slice, bounds, bounds[1:])):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "enhance")


# Numba wants these without annotations: a form for each type that features are stored in.


def _widened(x):  # type: ignore[no-untyped-def]
    """A stored number as float32."""
    raise NotImplementedError


def _stored(x, like):  # type: ignore[no-untyped-def]
    """A float32 as `like` is stored, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(_widened, inline="always")
def _widened_form(x):  # type: ignore[no-untyped-def]
    if x == numba.types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(_stored, inline="always")
def _stored_form(x, like):  # type: ignore[no-untyped-def]
    def as_bfloat16(x, like):  # type: ignore[no-untyped-def]
        bits = np.float32(x).view(np.uint32)
        tie = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + tie) >> np.uint32(16))

    return as_bfloat16 if like == numba.types.uint16 else lambda x, like: x


@numba.njit(inline="always")
def _between(place, places, samples):  # type: ignore[no-untyped-def]
    """The samples on both sides of a place, and how far it is from the first to the second."""
    at = np.float32(samples / places) * (np.float32(place) + np.float32(0.5)) - np.float32(0.5)
    at = max(at, np.float32(0))
    first = min(int(at), samples - 1)
    return first, min(first + 1, samples - 1), at - np.float32(first)


@_compiled
def _add_gated(  # type: ignore[no-untyped-def]
    features, correction, gate, limits, enhanced, across, ahead, weight, energy
) -> None:
    """features + correction * gate within the limits, and the drift but for its arc tangent.

    features, correction, enhanced: (B, H, W, C), float32 or bfloat16's bits; gate: (B, h, w, C)
    float32, enlarged as `F.interpolate(mode="bilinear")` does, or None; across, ahead, weight:
    (B, H, W) float32, see `mean_angle_deg`; energy: (B,) float32.
    """
    batch, height, width, channels = features.shape
    low, high = limits
    nothing = np.float32(0)
    norms, dots, moves = np.empty((3, width), np.float32)
    if gate is not None:  # decided when compiling, here and below
        rows, columns = gate.shape[1:3]
        gates = np.empty((columns, channels), np.float32)
    for b in range(batch):
        whole, moved_in_all = 0.0, 0.0
        for y in range(height):
            if gate is not None:
                upper, lower, share = _between(y, height, rows)
                for x in range(columns):
                    for c in range(channels):
                        above = gate[b, upper, x, c]
                        gates[x, c] = above + share * (gate[b, lower, x, c] - above)
            for x in range(width):
                if gate is not None:
                    left, right, share = _between(x, width, columns)
                norm, dot, move = nothing, nothing, nothing
                for c in range(channels):
                    before = _widened(features[b, y, x, c])
                    step = _widened(correction[b, y, x, c])
                    if gate is not None:
                        step *= gates[left, c] + share * (gates[right, c] - gates[left, c])
                    after = before + step
                    after = low if after < low else after
                    after = high if after > high else after
                    enhanced[b, y, x, c] = _stored(after, features[b, y, x, c])
                    moved = after - before  # before it is rounded: what the module meant
                    norm += before * before
                    dot += before * moved
                    move += moved * moved
                norms[x], dots[x], moves[x] = norm, dot, move
            for x in range(width):
                norm, move = np.sqrt(norms[x]), np.sqrt(moves[x])
                along = dots[x] / max(norm, _TINY)
                turned = np.sqrt(max((move - along) * (move + along), nothing))
                across[b, y, x] = turned if norm > nothing else nothing
                ahead[b, y, x] = norm + along
                weight[b, y, x] = np.sqrt(max(norms[x] + 2 * dots[x] + moves[x], nothing))
            whole += norms.sum()
            moved_in_all += moves.sum()
        energy[b] = np.sqrt(moved_in_all / whole) if whole != 0 else 0.0
