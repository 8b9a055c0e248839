"""What a worker tells Ray's metrics agent, which Prometheus scrapes; conf/grafana draws it.

Counters add up over the workers of a run; they begin anew with each worker process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.metrics import Counter

    from pipeline.label_shard import LabelledShard

IMAGES, BYTES, SHARDS = "afd_images", "afd_bytes", "afd_shards"
STAGE_SECONDS = "afd_stage_seconds"
IMAGES_READY = "afd_images_ready"


class ShardMetrics:
    """Counts shards as they end. Does nothing in a process without Ray."""

    def __init__(self) -> None:
        ray = sys.modules.get("ray")  # a worker of Ray's has it; the benchmark does without
        self._heard = ray is not None and ray.is_initialized()
        if self._heard:
            from ray.util.metrics import Counter, Gauge

            self._images = Counter(IMAGES, "Rows committed, by status.", ("status",))
            self._bytes = Counter(BYTES, "Encoded bytes of the images committed.")
            self._shards = Counter(SHARDS, "Shards ended, by outcome.", ("outcome",))
            self._seconds = Counter(STAGE_SECONDS, "Seconds of workers, by stage.", ("stage",))
            self._ready = Gauge(IMAGES_READY, "Images read ahead of the decoder, shard's mean.")

    def committed(
        self, labelled: LabelledShard, num_bytes: int, seconds: Mapping[str, float]
    ) -> None:
        """num_bytes: of the shard's images. seconds: per stage, with the commit's."""
        if not self._heard:
            return
        self._shards.inc(1, {"outcome": "committed"})
        for status, count in labelled.counts.items():
            _add(self._images, count, {"status": status})
        _add(self._bytes, num_bytes, {})
        for stage, spent_s in seconds.items():
            _add(self._seconds, spent_s, {"stage": stage})
        self._ready.set(labelled.mean_ready)

    def failed(self) -> None:
        if self._heard:
            self._shards.inc(1, {"outcome": "failed"})


def _add(counter: Counter, value: float, tags: dict[str, str]) -> None:
    if value > 0:  # Ray refuses to count nothing
        counter.inc(value, tags)
