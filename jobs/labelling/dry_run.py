"""`afd label --dry-run`: the size and duration of a run, from the listing and a short probe."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.labelling.summary import committed_shards
from jobs.labelling.workers import check_address
from jobs.log import say
from jobs.pool import Pool, pool_for, this_machine
from jobs.quantities import duration, size
from jobs.run_record import check_model, open_run
from jobs.settings import LabelSettings
from pipeline.audit import damaged_parts
from pipeline.output import OutputFolder
from pipeline.own_files import own_files
from pipeline.records import ImageRef, Shard
from pipeline.shards import Plan, cut, part_name
from pipeline.sources import list_images

_PROBED_IMAGES = 64


@dataclass(frozen=True)
class Listing:
    """The images to label.

    num_bytes: None when the listing does not say. sample: images chosen at random.
    num_done: further images, which an earlier run has labelled.
    """

    num_images: int
    num_shards: int
    num_bytes: int | None
    sample: tuple[ImageRef, ...]
    num_done: int = 0


@dataclass(frozen=True)
class Probe:
    """images_per_s: of one worker. bytes_per_image: mean over the images that could be read."""

    num_images: int
    images_per_s: float
    bytes_per_image: float


def dry_run(settings: LabelSettings) -> str:
    """The plan as lines of text. Writes nothing.

    Raises the same errors as `jobs.label.label`, except those of an output that is not writable.
    """
    settings = settings.located()
    output = OutputFolder(settings.output)
    record = open_run(output, settings)
    if record is None:
        check_address(settings)
        refs = list_images(settings.input, own_files(settings.input, output))
        listing = survey(cut(refs, settings.images_per_shard))
    else:
        listing = _survey_left(settings, output)
    if not listing.num_images:
        return f"{_done(listing)}: nothing to do"
    pool = _pool(settings, listing.num_shards)
    if settings.workers != 0 and pool.num_gpus and not this_machine().gpus:
        return "\n".join(_lines(listing, pool, None))
    say(f"labelling {len(listing.sample)} of {listing.num_images} images to measure the speed")
    probed = probe(
        replace(settings, device=pool.device),
        listing.sample,
        num_threads=pool.num_cpus,
        images_to_label=(listing.num_images + listing.num_done) // pool.max_workers,
        record=record or {},
    )
    return "\n".join(_lines(listing, pool, probed))


def _survey_left(settings: LabelSettings, output: OutputFolder) -> Listing:
    """What a run that was interrupted has left to label."""
    plan = Plan(output)
    sizes = plan.shard_sizes
    done = committed_shards(output, len(sizes))
    if settings.verify:
        for shard, reason in damaged_parts(output):
            say(f"{part_name(shard)} is damaged and would be labelled again: {reason}")
            done.discard(shard)
    left = (plan.shard(shard).refs for shard in range(len(sizes)) if shard not in done)
    return survey(left, num_done=sum(sizes[shard] for shard in done))


def survey(shards: Iterable[Sequence[ImageRef]], num_done: int = 0) -> Listing:
    """Count the images of shards in one pass, with no more than one shard of them in memory.

    num_done: as in `Listing`.
    """
    rng = random.Random(0)
    sample: list[ImageRef] = []
    num_images = num_shards = num_bytes = 0
    all_known = True
    for shard in shards:
        num_shards += 1
        for ref in shard:
            num_images += 1
            all_known = all_known and ref.num_bytes is not None
            num_bytes += ref.num_bytes or 0
            # Vitter's algorithm R: every image is in the sample with the same probability.
            if len(sample) < _PROBED_IMAGES:
                sample.append(ref)
            elif (place := rng.randrange(num_images)) < _PROBED_IMAGES:
                sample[place] = ref
    known_bytes = num_bytes if all_known else None
    return Listing(num_images, num_shards, known_bytes, tuple(sample), num_done)


def probe(
    settings: LabelSettings,
    sample: tuple[ImageRef, ...],
    *,
    num_threads: int,
    images_to_label: int,
    record: Mapping[str, Any],
) -> Probe:
    """Label a sample as one worker would, after a batch to warm up.

    images_to_label: by one worker in the real run; the engine depends on it.
    record: the content of run.json, empty for a new run. Raises ValueError for another model.
    """
    from jobs.model import load_model
    from pipeline.label_shard import label_shard
    from pipeline.screening.screen import Limits

    model = load_model(settings, num_threads=num_threads, images_to_label=images_to_label)
    check_model(record, model.facts)

    def label(refs: tuple[ImageRef, ...]) -> list[int]:
        labelled = label_shard(
            Shard(0, refs),
            decoder=model.decoder,
            predict=model.predictor,
            class_names=model.class_names,
            limits=Limits(settings.max_pixels, settings.integrity),
            read_threads=settings.read_threads,
        )
        sizes: list[int | None] = labelled.table["num_bytes"].to_pylist()
        return [size for size in sizes if size is not None]

    label(sample[: model.decoder.batch_size])
    began = time.perf_counter()
    sizes = label(sample)
    images_per_s = len(sample) / (time.perf_counter() - began)
    return Probe(len(sample), images_per_s, sum(sizes) / max(1, len(sizes)))


def _pool(settings: LabelSettings, num_shards: int) -> Pool:
    if settings.address == "local":
        return pool_for(settings, [this_machine()], num_shards)
    from jobs.cluster import cluster, nodes  # takes a second, and needs Ray

    with cluster(settings.address):
        return pool_for(settings, nodes(), num_shards)


def _done(listing: Listing) -> str:
    total = listing.num_done + listing.num_images
    return f"{listing.num_done:,} of {total:,} images are labelled already"


def _lines(listing: Listing, pool: Pool, probed: Probe | None) -> Iterator[str]:
    """probed: None where this machine lacks the workers' device."""
    images = listing.num_images
    if listing.num_done:
        yield f"{_done(listing)}; the others:"
    yield f"images   {images:,} in {listing.num_shards:,} shards"
    if (num_bytes := listing.num_bytes) is not None:
        yield f"bytes    {size(num_bytes)}, {size(num_bytes / images)} an image"
    elif probed is not None:
        per_image = probed.bytes_per_image
        yield f"bytes    about {size(per_image * images)}, {size(per_image)} an image"
    counts = sorted({pool.num_workers, pool.max_workers})
    device = f"{pool.num_cpus} CPU{'s' * (pool.num_cpus > 1)}"
    if pool.num_gpus:
        device += " and a GPU" if pool.num_gpus == 1 else f" and {pool.num_gpus:.2g} of a GPU"
    yield f"workers  {' to '.join(map(str, counts))}, each with {device}"
    if probed is None:
        yield "speed    not measured: the workers have GPUs, and this machine has none"
        return
    yield (
        f"speed    {probed.images_per_s:,.1f} images/s in one worker, by a probe of"
        f" {probed.num_images} images in this process"
    )
    if 0 < pool.num_gpus < 1:
        counts = sorted({max(1, round(count * pool.num_gpus)) for count in counts})
        bound = "or less: workers that share a GPU are counted as one"
    else:
        bound = "if the workers do not slow each other down"
    times = [duration(images / (probed.images_per_s * count)) for count in reversed(counts)]
    yield f"time     about {' to '.join(times)} {bound}"
