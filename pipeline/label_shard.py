"""Every step for one shard, in order.

`label_shard` takes them all; a worker begins with `read_shard` while the shard before is labelled,
and goes on with `label_images`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipeline.decode import Decoder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import Classifier, Shard
from pipeline.screening.screen import Limits
from pipeline.sink import ShardRows
from pipeline.stage_clock import StageClock


@dataclass(frozen=True, slots=True)
class LabelledShard:
    """table: one row an image, `records.SCHEMA`. counts: rows per status.

    began_at: when its first images were asked for, seconds since the epoch.
    seconds: where the shard's time went. `read`, `decode` (waiting for either; on a CPU resampling
    too), `dct`, `model` and `rows` add up to the shard's wall time; `read_busy` and `screen_busy`
    are seconds of the reading threads, which work beside it.
    mean_ready: mean number of images read and screened, but not yet taken by the decoder.
    """

    table: pa.Table
    counts: dict[str, int]
    began_at: float
    seconds: dict[str, float]
    mean_ready: float


def label_shard(
    shard: Shard,
    *,
    decoder: Decoder,
    classifier: Classifier,
    class_names: tuple[str, ...] | None,
    limits: Limits,
    read_threads: int = 4,
) -> LabelledShard:
    """Label the images of a shard; whatever is wrong with an image ends in its row."""
    reading = read_shard(shard, decoder, limits, read_threads)
    return label_images(
        shard, reading, decoder=decoder, classifier=classifier, class_names=class_names
    )


def read_shard(shard: Shard, decoder: Decoder, limits: Limits, read_threads: int) -> ReadAhead:
    """The images of a shard, as far ahead of the decoder as it takes; not begun yet."""
    return ReadAhead(
        shard.refs, limits, num_threads=read_threads, max_images=4 * decoder.batch_size
    )


def label_images(
    shard: Shard,
    reading: ReadAhead,
    *,
    decoder: Decoder,
    classifier: Classifier,
    class_names: tuple[str, ...] | None,
) -> LabelledShard:
    """`label_shard` from where its images are being read."""
    began_at = time.time()
    clock = StageClock()
    rows = ShardRows(shard, class_names)
    encoded = map(rows.add_image, clock.iterate("read", reading))
    with closing(decoder.decode(encoded, clock)) as batches:  # an error leaves the decoder empty
        for batch in clock.iterate("decode", batches):
            with clock.stage("model"):
                qualities = torch.tensor([image.stated_quality for image in batch.images])
                predictions = classifier(batch.pixels, batch.dct, qualities)
            with clock.stage("rows"):
                rows.add_predictions(batch.images, predictions)
    with clock.stage("rows"):
        table = rows.to_table()
    busy = {"read_busy": reading.read_s, "screen_busy": reading.screen_s}
    seconds = {**clock.seconds, **busy}
    return LabelledShard(table, rows.counts, began_at, seconds, reading.mean_ready)
