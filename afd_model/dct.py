"""The 8x8 block DCT of JPEG in plain PyTorch: the reference that faster ones are tested against.

Colour is ITU-T T.871 (JFIF): full-range YCbCr, without rounding. Luma is level-shifted by -128
(ITU-T T.81, A.3.1); chroma is taken around zero, which is the same shift. The transform is the
orthonormal DCT-II, which for 8x8 blocks is T.81's FDCT (A.3.3): coefficients are on the scale of
JPEG's quantization tables, DC in [-1024, 1016].
"""

import math

import torch
from torch import Tensor

DCT_CHANNELS = 192  # 3 components of 64 coefficients

# T.871 clause 7: Y = 0.299 R + 0.587 G + 0.114 B, Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402.
JFIF_RGB_TO_YCBCR: tuple[tuple[float, float, float], ...] = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772),
    (0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402),
)

# T.81 Figure A.6: zigzag index -> row-major index, 8 * vertical + horizontal frequency.
ZIGZAG: tuple[int, ...] = (
    *(0, 1, 8, 16, 9, 2, 3, 10),
    *(17, 24, 32, 25, 18, 11, 4, 5),
    *(12, 19, 26, 33, 40, 48, 41, 34),
    *(27, 20, 13, 6, 7, 14, 21, 28),
    *(35, 42, 49, 56, 57, 50, 43, 36),
    *(29, 22, 15, 23, 30, 37, 44, 51),
    *(58, 59, 52, 45, 38, 31, 39, 46),
    *(53, 60, 61, 54, 47, 55, 62, 63),
)


LEVEL_SHIFT = 128.0  # T.81 A.3.1


def dct_basis() -> Tensor:
    """The orthonormal 8-point DCT-II matrix.

    Returns:
        (8, 8) float64; row u samples the cosine of frequency u. ``basis @ basis.T`` is the identity
        and ``basis @ block @ basis.T`` is the block's DCT.
    """
    frequency = torch.arange(8, dtype=torch.float64)[:, None]
    sample = torch.arange(8, dtype=torch.float64)[None, :]
    basis = torch.cos((2 * sample + 1) * frequency * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


def block_dct(rgb: Tensor) -> Tensor:
    """The 8x8 block DCT of an image's YCbCr.

    Args:
        rgb: (B, 3, H, W) floating point, gamma-encoded RGB on 0..255. Rows and columns beyond the
            last whole block are ignored.

    Returns:
        (B, 192, H // 8, W // 8), float64 for float64 input and float32 otherwise;
        channel = component * 64 + zigzag index.

    Raises:
        ValueError: the input is not (B, 3, H, W) with H and W of at least 8.
    """
    if rgb.ndim != 4 or rgb.shape[1] != 3 or min(rgb.shape[2:]) < 8:
        raise ValueError(f"block_dct takes (B, 3, H, W) with H, W >= 8, not {tuple(rgb.shape)}")
    dtype = torch.float64 if rgb.dtype == torch.float64 else torch.float32
    matrix = torch.tensor(JFIF_RGB_TO_YCBCR, dtype=dtype, device=rgb.device)
    basis = dct_basis().to(device=rgb.device, dtype=dtype)
    rows, columns = rgb.shape[2] // 8, rgb.shape[3] // 8
    whole = rgb[:, :, : rows * 8, : columns * 8].to(dtype)
    ycbcr = torch.einsum("kc,bchw->bkhw", matrix, whole)
    shift = torch.tensor([LEVEL_SHIFT, 0.0, 0.0], dtype=dtype, device=rgb.device)
    blocks = (ycbcr - shift[:, None, None]).unflatten(3, (columns, 8)).unflatten(2, (rows, 8))
    spectrum = torch.einsum("vy,bkrycx,ux->bkvurc", basis, blocks, basis)
    return spectrum.flatten(2, 3)[:, :, list(ZIGZAG)].flatten(1, 2)  # (B, 192, H // 8, W // 8)


def block_dct_of_normalized(
    pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """`block_dct` of normalised pixels: the normalisation is undone in float32.

    Args:
        pixels: (B, 3, H, W), any floating dtype.
        mean, std: their normalisation, R, G, B on the 0..1 scale.

    Returns:
        (B, 192, H // 8, W // 8) float32.
    """
    shift, scale = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (mean, std))
    return block_dct(255 * (pixels.float() * scale + shift))
