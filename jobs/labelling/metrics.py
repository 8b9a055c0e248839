"""What a worker reports to Ray's metrics agent, from which Prometheus reads it; see conf/grafana.

The counters start at zero in each worker process; a run's total is the sum over its workers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow.compute as pc

if TYPE_CHECKING:
    from ray.util.metrics import Counter

    from pipeline.label_shard import LabelledShard

IMAGES, BYTES, SHARDS = "afd_images", "afd_bytes", "afd_shards"
STAGE_SECONDS = "afd_stage_seconds"
IMAGES_READY = "afd_images_ready"


class ShardMetrics:
    """Counts shards as they end. Does nothing in a process that is not connected to Ray."""

    def __init__(self) -> None:
        ray = sys.modules.get("ray")  # not imported: --workers 0 and the benchmark work without it
        self._enabled = ray is not None and ray.is_initialized()
        if self._enabled:
            from ray.util.metrics import Counter, Gauge

            self._images = Counter(IMAGES, "Rows committed, by status.", ("status",))
            self._bytes = Counter(BYTES, "Encoded bytes of the images committed.")
            self._shards = Counter(SHARDS, "Shards ended, by outcome.", ("outcome",))
            self._seconds = Counter(STAGE_SECONDS, "Seconds of workers, by stage.", ("stage",))
            self._ready = Gauge(IMAGES_READY, "Images read ahead of the decoder, shard's mean.")

    def committed(self, labelled: LabelledShard, seconds: Mapping[str, float]) -> None:
        """seconds: per stage, including the commit's."""
        if not self._enabled:
            return
        self._shards.inc(1, {"outcome": "committed"})
        for status, count in labelled.counts.items():
            _add(self._images, count, {"status": status})
        _add(self._bytes, pc.sum(labelled.table["num_bytes"]).as_py() or 0, {})
        for stage, spent_s in seconds.items():
            _add(self._seconds, spent_s, {"stage": stage})
        self._ready.set(labelled.mean_ready)

    def failed(self) -> None:
        if self._enabled:
            self._shards.inc(1, {"outcome": "failed"})


def _add(counter: Counter, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray's counters refuse 0
        counter.inc(value, tags)
