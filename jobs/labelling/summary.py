"""summary.json: the result of a run, checked against the plan and the parts on storage."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.labelling.messages import CommitRecord
from jobs.labelling.mounts import check_output_remains
from jobs.log import say
from jobs.run_record import model_differences
from pipeline.error_text import one_line, reason_of
from pipeline.output import LABELS, RUN, SUMMARY, DamagedError, OutputFolder
from pipeline.records import STATUSES
from pipeline.shards import Plan, part_file, part_name
from pipeline.sink import read_facts
from pipeline.stores.errors import AccessError, TransientStoreError, is_content_error

COMPLETE = "complete"
FAILED = "failed shards"
NOT_LABELLED = "not labelled yet"
_VERIFY = "; --verify labels it again"


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the whole output; times and speed of the last run only.

    images: rows committed. planned_images: images in the plan. counts: rows per status.
    shards: committed. failed: part name -> why that part is missing or damaged.
    start_up_s: from the command to the first shard's start. images_per_s: over the rest of wall_s.
    seconds: per stage, summed over the workers, see `pipeline.label_shard.LabelledShard`.
    exit_reason: "complete", "failed shards", "interrupted", or an error.
    """

    run_id: str
    output: str
    exit_reason: str
    images: int
    planned_images: int
    counts: dict[str, int]
    shards: int
    planned_shards: int
    images_this_run: int
    start_up_s: float
    wall_s: float
    images_per_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.exit_reason == COMPLETE


@dataclass(slots=True)
class Tally:
    """What this run's records add up to; a run of 100,000 shards keeps none of them.

    images: labelled by this run. seconds: per stage. errors: by shard.
    started_at: when the first shard was begun, by `time.monotonic`; infinite before that.
    """

    images: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    errors: dict[int, str] = field(default_factory=dict)
    started_at: float = math.inf

    def add(self, record: CommitRecord, num_images: int) -> None:
        """num_images: of its shard."""
        self.started_at = min(self.started_at, time.monotonic() - record.spent_s)
        if record.error is not None:
            self.errors[record.shard] = record.error
        elif record.seconds:  # else another driver committed it first
            self.images += num_images
            self.seconds.update(record.seconds)


def committed_shards(output: OutputFolder, num_shards: int) -> set[int]:
    """The shards whose part exists, found with one listing of the folder."""
    present = output.modification_times(LABELS)
    return {shard for shard in range(num_shards) if part_name(shard) in present}


def finished_summary(output: OutputFolder) -> Summary | None:
    """The summary of a run that is complete; None for any other."""
    stored = _stored(output)
    if stored is None or not stored.complete:
        return None
    num_shards = Plan(output).num_shards
    return stored if len(committed_shards(output, num_shards)) == num_shards else None


def _stored(output: OutputFolder) -> Summary | None:
    """None also when it is damaged or of another version: it is then written anew."""
    try:
        return Summary(**(output.read_json(SUMMARY) or {}))
    except (DamagedError, TypeError):
        return None


def summarise(
    output: OutputFolder, run_id: str, tally: Tally, *, began: float, exit_reason: str
) -> Summary:
    """Check the parts against the plan and sum them up; removes those of another run or model.

    began: when its command started, by `time.monotonic`.
    Raises OutputGoneError when the output is gone, or another run's.
    """
    check_output_remains(output, run_id)
    sizes = Plan(output).shard_sizes
    counts, failed = _audit(output, run_id, sizes, tally.errors)
    now = time.monotonic()
    wall_s = now - began
    start_up_s = min(tally.started_at, now) - began
    return Summary(
        run_id=run_id,
        output=output.location,
        exit_reason=FAILED if failed and exit_reason == COMPLETE else exit_reason,
        images=counts.total(),
        planned_images=sum(sizes),
        counts={status: counts[status] for status in STATUSES},
        shards=len(sizes) - len(failed),
        planned_shards=len(sizes),
        images_this_run=tally.images,
        start_up_s=round(start_up_s, 3),
        wall_s=round(wall_s, 3),
        images_per_s=round(tally.images / max(wall_s - start_up_s, 1e-9), 2),
        seconds={stage: round(value, 3) for stage, value in sorted(tally.seconds.items())},
        failed=failed,
    )


def write_summary(output: OutputFolder, summary: Summary) -> None:
    """Raises OutputGoneError when the output is gone, or another run's.

    Raises another OSError or AccessError when the summary of a complete run cannot be written.
    """
    check_output_remains(output, summary.run_id)
    try:
        output.write_json(SUMMARY, asdict(summary))
    except (OSError, AccessError) as error:  # a full disk may be what ended the run
        if summary.complete:
            raise
        say(f"{SUMMARY} is not written: {reason_of(error)}")


def _audit(
    output: OutputFolder, run_id: str, sizes: Sequence[int], errors: Mapping[int, str]
) -> tuple[Counter[str], dict[str, str]]:
    """(rows per status, part name -> what is wrong with it), read from the parts themselves."""
    counts: Counter[str] = Counter()
    failed: dict[str, str] = {}
    # Not from the driver: another one may have recorded its model first, or after it.
    model = (output.read_json(RUN) or {}).get("model") or {}

    def facts_or_reason(shard: int) -> dict[str, Any] | str:
        try:
            facts = read_facts(output, shard)
        except FileNotFoundError:
            return errors.get(shard) or NOT_LABELLED
        except TransientStoreError:
            raise  # the store fails, as by an AccessError, and says nothing about this part
        except (OSError, ValueError) as error:
            if is_content_error(error):
                return f"damaged: {one_line(error).rstrip('.')}{_VERIFY}"
            return f"cannot be read: {one_line(error)}"
        if facts["num_rows"] != sizes[shard]:
            rows = facts["num_rows"]
            return f"damaged: {rows} rows for {sizes[shard]} planned images{_VERIFY}"
        if facts.get("run_id") != run_id:
            output.remove(part_file(shard))
            return "removed, as it is of another run"
        if changed := model_differences(model, {name: facts.get(name) for name in model}):
            output.remove(part_file(shard))
            return f"removed, as it is of another model: {changed}"
        return facts

    with ThreadPoolExecutor() as pool:
        try:
            for shard, facts in enumerate(pool.map(facts_or_reason, range(len(sizes)))):
                if isinstance(facts, str):
                    failed[part_name(shard)] = facts
                else:
                    counts.update(facts["counts"])
        finally:
            pool.shutdown(cancel_futures=True)
    return counts, failed
