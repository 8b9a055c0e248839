"""A worker's loaded decoder and model, applied to one shard at a time."""

from __future__ import annotations

from dataclasses import asdict, replace

from afd_model.inference.device import fault_of
from jobs.labelling.messages import WorkerConfig
from jobs.model import load_model
from jobs.run_record import check_model, versions
from pipeline.label_shard import LabelledShard, label_images, read_shard
from pipeline.output import RUN, OutputFolder
from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import Shard
from pipeline.screening.screen import Limits


class ShardPipeline:
    """Reads and labels shards. `part_facts` holds what is written into each part's metadata.

    num_images: images of the whole run.
    Raises ValueError, worded for the user, when the model cannot be loaded or is not the one that
    the run started with.
    """

    def __init__(self, config: WorkerConfig, num_images: int) -> None:
        settings = config.settings
        self.limits = Limits(settings.max_pixels, settings.integrity)
        self.model = load_model(
            replace(settings, device=config.device or settings.device),
            num_threads=config.num_threads,
            images_to_label=num_images // config.num_workers,
        )
        self._read_threads = settings.read_threads
        # Not from the driver: the file also holds what the first worker of this run has loaded.
        check_model(OutputFolder(settings.output).read_json(RUN) or {}, self.model.facts)
        self.part_facts = {
            "settings": asdict(settings),
            **self.model.facts,
            **self.model.host,
            "versions": versions(),
        }

    def device_fault(self) -> str | None:
        """Why this process can no longer use its device, in one line; None while it can."""
        return fault_of(self.model.predictor.device)

    def read(self, shard: Shard) -> ReadAhead:
        """The shard's images, which threads will read ahead of the decoder."""
        return read_shard(shard, self.model.decoder, self.limits, self._read_threads)

    def label(self, shard: Shard, images: ReadAhead) -> LabelledShard:
        """Decode and classify the images of a shard."""
        return label_images(
            shard,
            images,
            decoder=self.model.decoder,
            predict=self.model.predictor,
            class_names=self.model.class_names,
        )
