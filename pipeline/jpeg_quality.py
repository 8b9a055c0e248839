"""The IJG quality factor of a quantization table, and the IJG tables themselves."""

import functools

import numpy as np

# IJG luma tables of neighbouring qualities from 40 to 99 differ by 1.1 on average. So a residual
# below 1 gives the quality to about one step, and allows for encoders that round differently.
# Photoshop's tables leave residuals of 1.1 to 18, except that of its highest quality.
MAX_STANDARD_TABLE_ERROR = 1.0

# T.81 table K.1 in zigzag order, as a DQT segment carries it.
_IJG_LUMA_ZIGZAG = (
    *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
    *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
    *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
    *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
)


@functools.lru_cache(maxsize=4096)
def fit_quality(table: bytes) -> tuple[int | None, float]:
    """Least-squares fit of a luma quantization table to the 100 IJG tables.

    Args:
        table: 64 bytes, or 128 for a 16-bit table (big-endian), in zigzag order, as in a DQT.

    Returns:
        (quality 1 to 100, or None above `MAX_STANDARD_TABLE_ERROR`; mean absolute residual).

    Raises:
        ValueError: a table of another length.
    """
    if len(table) not in (64, 128):
        raise ValueError(f"quantization table must have 64 or 128 bytes, got {len(table)}")
    is_16_bit = len(table) == 128
    entries = np.frombuffer(table, dtype=">u2" if is_16_bit else "u1").astype(np.float64)  # (64,)
    # libjpeg clamps to 255 only when it writes baseline (8-bit) tables.
    residuals = entries - ijg_luma_tables(32767 if is_16_bit else 255)  # (100, 64)
    best = int(np.argmin(np.square(residuals).sum(axis=1)))
    error = float(np.abs(residuals[best]).mean())
    return (best + 1 if error <= MAX_STANDARD_TABLE_ERROR else None), error


@functools.cache
def ijg_luma_tables(max_entry: int = 255) -> np.ndarray:
    """libjpeg's luma tables of quality 1 to 100: (100, 64) int64, zigzag order (`jcparam.c`)."""
    base = np.array(_IJG_LUMA_ZIGZAG, dtype=np.int64)
    quality = np.arange(1, 101)
    scale_percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = np.clip((base * scale_percent[:, None] + 50) // 100, 1, max_entry)
    tables.setflags(write=False)
    return tables
