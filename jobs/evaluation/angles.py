"""Measures the paper's Fig. 4 for a classifier and a collection; its Parquet and Markdown form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from afd_model.backbones import Backbone
from afd_model.evaluation.evaluator import Evaluator
from afd_model.evaluation.response_angles import AngleMeter, BlockAngles
from afd_model.evaluation.statistics import BinnedMedians, binned_medians, spearman
from jobs.sampling import evenly
from pipeline.decode import DecodeOptions
from pipeline.degrade import CompressionProtocol
from pipeline.pairs.evaluate_images import Condition, ImageEvaluator
from pipeline.pixels.geometry import Geometry
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits

QUALITIES = (10, 25, 50, 60)  # the paper's
MAX_IMAGES = 200  # with 784 blocks per image, more do not change a curve
# Compresses the model's input, so that the blocks of the JPEG and of the DCT are the same. After
# compression at full size and a resize they would not be aligned.
MODEL_INPUT = CompressionProtocol("model-input", applies_to="model_input")
_BINS = 24


@dataclass(frozen=True)
class Curve:
    """Feature angle against DCT angle, over all blocks at one quality.

    features: "direct" or "enhanced". spearman: over the blocks. median_deg: of the feature angle.
    """

    quality: int
    features: str
    blocks: int
    spearman: float
    median_deg: float
    bins: BinnedMedians


@dataclass(frozen=True)
class AngleStudy:
    """names: of the N images. angles: per quality, (N, rows, columns) each; summed up in curves."""

    names: list[str]
    angles: dict[int, BlockAngles]
    curves: list[Curve]


def measure_angles(
    evaluator: Evaluator,
    backbone: Backbone,
    refs: Sequence[ImageRef],
    names: Sequence[str],
    *,
    options: DecodeOptions,
    limits: Limits,
) -> AngleStudy:
    """The block angles of at most `MAX_IMAGES` images, evenly spaced over all of them."""
    refs, names = evenly(refs, MAX_IMAGES), evenly(names, MAX_IMAGES)
    preset = backbone.preprocessing
    meter = AngleMeter(evaluator, backbone)
    images = ImageEvaluator(
        meter,
        Geometry.of_preset(preset, in_blocks=True),
        options,
        conditions=[Condition(MODEL_INPUT, quality=quality) for quality in QUALITIES],
        seed=0,
        limits=limits,
    )
    chunks = [chunk for chunk in images.measure(refs, names) if chunk.indices]
    angles = {
        condition.quality: _joined([chunk.outcomes[condition] for chunk in chunks])
        for condition in chunks[0].outcomes
        if condition.quality is not None
    }
    kept = [names[index] for chunk in chunks for index in chunk.indices]
    return AngleStudy(kept, angles, curves_of(angles))


def _joined(parts: Sequence[BlockAngles]) -> BlockAngles:
    enhanced = [part.enhanced_deg for part in parts if part.enhanced_deg is not None]
    return BlockAngles(
        np.concatenate([part.dct_deg for part in parts]),
        np.concatenate([part.direct_deg for part in parts]),
        np.concatenate(enhanced) if enhanced else None,
    )


def curves_of(angles: dict[int, BlockAngles]) -> list[Curve]:
    curves = []
    for quality, found in angles.items():
        x = found.dct_deg.ravel()
        for name, turned in (("direct", found.direct_deg), ("enhanced", found.enhanced_deg)):
            if turned is not None:
                y = turned.ravel()
                bins = binned_medians(x, y, bins=_BINS)
                median = float(np.median(y))
                curves.append(Curve(quality, name, len(x), spearman(x, y), median, bins))
    return curves


def points_table(study: AngleStudy) -> pa.Table:
    """One row per block and quality."""
    return pa.concat_tables(_points(study.names, q, found) for q, found in study.angles.items())


def _points(names: Sequence[str], quality: int, found: BlockAngles) -> pa.Table:
    images, rows, columns = found.dct_deg.shape
    image, row, column = (grid.ravel() for grid in np.indices((images, rows, columns)))
    enhanced = None if found.enhanced_deg is None else found.enhanced_deg.ravel()
    count = len(image)
    nothing = pa.nulls(count, pa.float32())
    return pa.table(
        {
            "name": pa.DictionaryArray.from_arrays(pa.array(image, pa.int32()), pa.array(names)),
            "quality": pa.array(np.full(count, quality), pa.int8()),
            "block_row": pa.array(row, pa.int16()),
            "block_column": pa.array(column, pa.int16()),
            "dct_angle_deg": pa.array(found.dct_deg.ravel(), pa.float32()),
            "direct_angle_deg": pa.array(found.direct_deg.ravel(), pa.float32()),
            "enhanced_angle_deg": nothing if enhanced is None else pa.array(enhanced, pa.float32()),
        }
    )


def bins_table(study: AngleStudy) -> pa.Table:
    """One row per point of a curve: the quartiles of the feature angle in a bin of blocks."""
    rows = [
        {
            "quality": curve.quality,
            "features": curve.features,
            "dct_angle_deg": float(x),
            "angle_low_deg": float(low),
            "angle_median_deg": float(median),
            "angle_high_deg": float(high),
            "blocks": int(count),
        }
        for curve in study.curves
        for x, low, median, high, count in zip(*curve.bins, strict=True)
    ]
    return pa.Table.from_pylist(rows)


def summaries(study: AngleStudy) -> list[dict[str, object]]:
    """The curves without their points, as JSON types."""
    return [
        {name: value for name, value in vars(curve).items() if name != "bins"}
        for curve in study.curves
    ]


def angles_markdown(study: AngleStudy, picture: str) -> Iterable[str]:
    """Lines of Markdown. picture: the figure's file name, in the report's folder."""
    yield f"## Feature response angle against DCT angle, {len(study.names)} images\n"
    yield f"![Feature response angle against DCT coefficient angle]({picture})\n"
    yield "| | features | blocks | Spearman | median angle |"
    yield "|---|---|--:|--:|--:|"
    for c in study.curves:
        numbers = f"{c.spearman:.3f} | {c.median_deg:.2f}°"
        yield f"| QF {c.quality} | {c.features} | {c.blocks} | {numbers} |"
    yield ""
