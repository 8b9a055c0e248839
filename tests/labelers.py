"""A planned collection and a worker for it, for the tests of what a worker does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints import MINIATURE
from jpegs import encode, photo

from jobs.labelling.messages import WorkerConfig
from jobs.labelling.shard_labeler import ShardLabeler
from jobs.settings import LabelSettings
from pipeline.output import OutputFolder
from pipeline.shards import write_plan
from pipeline.sources import list_images


def planned_settings(images: Path, output: Path) -> LabelSettings:
    """Five images in three shards, planned. Both folders exist and are empty."""
    for index in range(5):
        (images / f"{index}.jpg").write_bytes(encode(photo(70, 80, seed=index)))
    settings = LabelSettings(
        input=str(images),
        output=str(output),
        backbone=MINIATURE,
        weights="none",
        resize=64,
        crop=64,
        images_per_shard=2,
        device="cpu",
    )
    folder = OutputFolder(settings.output)
    folder.create()
    write_plan(folder, list_images(settings.input), settings.images_per_shard)
    return settings


def make_labeler(settings: LabelSettings, **changes: Any) -> ShardLabeler:
    config = WorkerConfig(settings=settings, run_id="run", driver="d1")
    return ShardLabeler(replace(config, **changes))


def emptied_output(settings: LabelSettings) -> OutputFolder:
    """The planned folder with nothing labelled and nothing attempted."""
    folder = OutputFolder(settings.output)
    for part in folder.labels.iterdir():
        part.unlink()
    folder.clean()
    return folder
