"""What the driver and its workers tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.settings import LabelSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What the driver tells each worker about the run.

    driver: the driver's name, see `pipeline.presence`. Each driver counts its own attempts.
    num_threads: threads of the model, and again of the decoder. num_workers: workers of the run.
    device: "cuda" or "cpu", what the pool has given the worker; None: as the settings say.
    input_files: local files of the input that the driver sees; None: whether this node sees the
        input is not checked.
    """

    settings: LabelSettings
    run_id: str
    driver: str
    num_threads: int = 1
    num_workers: int = 1
    device: Literal["cuda", "cpu"] | None = None
    input_files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What a worker tells the driver about one shard.

    `error` and `fatal` are None exactly when its part is committed.
    spent_s: since the worker was given the shard, by its own clock. counts: rows per status.
    seconds: per stage, see `LabelledShard`; and `write`.
    model: facts about the worker's model. fatal: why this worker can label no further shard;
    is_mistake: that is the user's mistake.
    notice: something about the worker that the user should know; the worker goes on.
    """

    shard: int
    spent_s: float
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    fatal: str | None = None
    is_mistake: bool = False
    notice: str | None = None
