"""Every step for one shard, in order.

`label_shard` runs all of them. A worker instead calls `read_shard` while it still labels the
previous shard, and `label_images` after that, so that reading overlaps with labelling.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from pipeline.decode import Decoder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import Predict, Shard
from pipeline.screening.screen import Limits
from pipeline.sink import ShardRows
from pipeline.stage_clock import StageClock


@dataclass(frozen=True, slots=True)
class LabelledShard:
    """table: one row per image, `records.SCHEMA`. counts: rows per status.

    began_at: when labelling began, in seconds since the epoch.
    seconds: per stage. `read` and `decode` (time spent waiting for them; on a CPU, `decode` also
        resamples), `dct`, `model` and `rows` add up to the shard's wall time; `read_busy` and
        `screen_busy` are those of the reading threads, which run in parallel.
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
    predict: Predict,
    class_names: tuple[str, ...] | None,
    limits: Limits,
    read_threads: int = 4,
) -> LabelledShard:
    """Label the images of a shard. A bad image gets a row with its error, and raises nothing."""
    reading = read_shard(shard, decoder, limits, read_threads)
    return label_images(shard, reading, decoder=decoder, predict=predict, class_names=class_names)


def read_shard(shard: Shard, decoder: Decoder, limits: Limits, read_threads: int) -> ReadAhead:
    """Prefetch for the images of a shard, up to four batches; it has not started yet."""
    return ReadAhead(
        shard.refs, limits, num_threads=read_threads, max_images=4 * decoder.batch_size
    )


def label_images(
    shard: Shard,
    reading: ReadAhead,
    *,
    decoder: Decoder,
    predict: Predict,
    class_names: tuple[str, ...] | None,
) -> LabelledShard:
    """The steps of `label_shard` after `read_shard`."""
    began_at = time.time()
    clock = StageClock()
    rows = ShardRows(shard, class_names)
    encoded = map(rows.add_image, clock.iterate("read", reading))
    with closing(decoder.decode(encoded, clock)) as batches:  # empties the decoder after an error
        for batch in clock.iterate("decode", batches):
            with clock.stage("model"):
                predictions = predict(batch.pixels, batch.dct, batch.file_facts)
            with clock.stage("rows"):
                rows.add_predictions(batch.images, predictions)
    with clock.stage("rows"):
        table = rows.to_table()
    busy = {"read_busy": reading.read_s, "screen_busy": reading.screen_s}
    seconds = {**clock.seconds, **busy}
    return LabelledShard(table, rows.counts, began_at, seconds, reading.mean_ready)
