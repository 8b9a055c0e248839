"""The Numba kernel that normalises pixels; see `pipeline.pixels.normalize`.

It has no type annotations, because Numba ignores them.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from afd_model.inference.numba_toolkit import kernel, stored


@kernel
def scale_levels(rows, scale, shift, out) -> None:
    """out = rows * scale + shift, computed in float32.

    rows: (R, N) uint8. scale, shift: (N,) float32. out: (R, N) float32 or bfloat16, written to.

    In one thread, because the decoder's threads run at the same time: each PyTorch operator would
    wait until all of its threads got a core.
    """
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            out[r, i] = stored(np.float32(rows[r, i]) * scale[i] + shift[i], out[r, i])
