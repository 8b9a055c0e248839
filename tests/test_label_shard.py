"""Every step of a shard together, with a real model: one row each, none the poorer for others."""

import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from corpora import parquet, tar_of_files
from jpegs import encode, photo
from servers import Bucket, Proxy, WebServer

from afd_model.afd_module import AFDModule
from afd_model.afd_sizes import config_for
from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.predictor import Predictor
from jobs.demo_corpus import broken_files
from pipeline.decode import Decoder
from pipeline.label_shard import LabelledShard, label_shard
from pipeline.output import OutputFolder
from pipeline.reading.reading_tasks import StoreDownError
from pipeline.records import SCHEMA, ImageRef, Predict, Shard
from pipeline.screening.screen import Limits
from pipeline.shards import Plan, write_plan
from pipeline.sources import list_images

CLASS_NAMES = tuple(f"class {number}" for number in range(1000))
GOOD = {f"good_{seed}.jpg": encode(photo(60 + seed, 90, seed), quality=30) for seed in range(9)}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """ResNet-18 with an AFD-Module that does something, random weights."""
    backbone = load_backbone("resnet18", "none")
    torch.manual_seed(0)
    module = AFDModule(config_for(backbone, "paper"))
    for parameter in module.fe_net.exit.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    classifier = AFDClassifier(backbone, module)
    return Predictor(classifier, device=torch.device("cpu"), precision=torch.float32)


@pytest.fixture
def label(small_decoder: Decoder) -> Callable[[Path, Predict], LabelledShard]:
    def label(folder: Path, predict: Predict) -> LabelledShard:
        shard = Shard(3, tuple(list_images(str(folder))))
        return run(shard, small_decoder, predict)

    return label


def run(shard: Shard, decoder: Decoder, predict: Predict) -> LabelledShard:
    return label_shard(
        shard,
        decoder=decoder,
        predict=predict,
        class_names=CLASS_NAMES,
        limits=Limits(),
        read_threads=2,
    )


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def by_name(table: pa.Table) -> dict[str, dict[str, object]]:
    return {Path(row["uri"]).name: row for row in table.to_pylist()}


def test_bad_files_get_their_rows_and_change_nobody_elses(
    tmp_path: Path, label: Callable[..., LabelledShard], predictor: Predictor
) -> None:
    bogus = encode(photo(60, 80))
    at = bogus.index(b"\xff\xc4") + 5
    refused = bogus[:at] + b"\xff" * 16 + bogus[at + 16 :]  # the decoder finds it, not the screen
    bad = broken_files(encode(photo(120, 160)), np.random.default_rng(0))
    bad |= {f"good_{place}x_refused.jpg": refused for place in (0, 4, 8)}  # among the good
    folder = write(tmp_path / "mixed", GOOD | bad)
    (folder / "dangling.jpg").symlink_to("gone.jpg")

    mixed = label(folder, predictor)
    assert mixed.table.schema.equals(SCHEMA)
    found = by_name(mixed.table)
    assert sorted(found) == sorted([*GOOD, *bad, "dangling.jpg"])
    assert mixed.table.num_rows == len(found)
    statuses = {name: row["status"] for name, row in found.items()}
    assert {statuses[name] for name in GOOD} == {"ok"}
    assert statuses["dangling.jpg"] == "unreadable"
    rejected = {name for name, status in statuses.items() if status == "rejected"}
    assert rejected == {
        *(name for name in bad if "refused" in name),
        *("header_only.jpg", "half_a_header.jpg", "zero_bytes.jpg", "zeros.jpg", "html_named.jpg"),
        *("gif_named.jpg", "twelve_bit.jpg", "huge_65500x65500.jpg"),
    }
    for row in found.values():
        labelled = row["status"] in ("ok", "damaged")
        assert (row["label"] is not None) == labelled
        assert (row["drift_angle_deg"] is not None) == labelled
        assert (row["error"] is None) == (row["status"] == "ok")
        assert row["shard"] == 3
    for status, count in mixed.counts.items():
        assert count == list(statuses.values()).count(status)

    alone = by_name(label(write(tmp_path / "good", GOOD), predictor).table)
    for name in GOOD:
        expected = {**alone[name], "uri": found[name]["uri"]}
        for key in ("confidence", "drift_angle_deg", "drift_energy", "top_confidences"):
            # The model sums in another order in a batch of another size.
            assert found[name].pop(key) == pytest.approx(expected.pop(key), rel=1e-4), (name, key)
        assert found[name] == expected


def test_files_that_vanish_or_turn_into_folders_after_planning(
    tmp_path: Path, small_decoder: Decoder, predictor: Predictor
) -> None:
    folder = write(tmp_path / "in", GOOD)
    shard = Shard(0, tuple(list_images(str(folder))))
    (folder / "good_0.jpg").unlink()
    (folder / "good_5.jpg").unlink()
    (folder / "good_5.jpg").mkdir()
    found = by_name(run(shard, small_decoder, predictor).table)
    errors = {name: row["error"] for name, row in found.items() if row["status"] == "unreadable"}
    assert errors == {"good_0.jpg": "No such file or directory", "good_5.jpg": "Is a directory"}
    assert [found[name]["status"] for name in GOOD].count("ok") == len(GOOD) - 2


# Where the model does not matter.


@dataclass(frozen=True)
class Means:
    """What `MeanColour` says of a batch."""

    labels: np.ndarray
    confidences: np.ndarray
    top_labels: np.ndarray
    top_confidences: np.ndarray
    drift_angle_deg: None = None
    drift_energy: None = None
    flip_probability: None = None


class MeanColour:
    """A classifier of one operation: which channel is brightest, and how bright."""

    def __init__(self, *, seconds: float = 0.0, fails_at_batch: int | None = None) -> None:
        self.seconds = seconds
        self.fails_at_batch = fails_at_batch
        self.file_facts: list[list[float]] = []
        self.batches = 0

    def __call__(self, pixels: torch.Tensor, dct: torch.Tensor, file_facts: torch.Tensor) -> Means:
        if self.batches == self.fails_at_batch:
            raise MemoryError("no room for this batch")
        self.batches += 1
        self.file_facts += file_facts.tolist()
        time.sleep(self.seconds)
        top = pixels.mean((2, 3)).topk(2)
        labels = top.indices.numpy().astype(np.int32)
        return Means(labels[:, 0], top.values[:, 0].numpy(), labels, top.values.numpy())


def test_labels_go_to_the_images_they_were_made_of(
    tmp_path: Path, label: Callable[..., LabelledShard]
) -> None:
    colours = {"red": 0, "green": 1, "blue": 2}
    files = {"broken.jpg": b""}
    for number in range(30):
        name = list(colours)[number * 7 % 3]
        rgb = np.full((40, 40, 3), 20, np.uint8)
        rgb[:, :, colours[name]] = 100 + 5 * number
        files[f"{number:02d}_{name}.jpg"] = encode(rgb, quality=90)
    found = by_name(label(write(tmp_path / "in", files), MeanColour()).table)
    for file_name, row in found.items():
        if file_name == "broken.jpg":
            continue
        number, name = file_name.removesuffix(".jpg").split("_")
        assert row["label_name"] == f"class {colours[name]}"
        assert row["confidence"] == pytest.approx((100 + 5 * int(number)) / 255, abs=0.02)


def test_the_classifier_gets_the_headers_quality_and_the_enlargement(
    tmp_path: Path, label: Callable[..., LabelledShard]
) -> None:
    classifier = MeanColour()
    files = {f"{q:03d}.jpg": encode(photo(40, 32), quality=q) for q in (5, 50, 95)}
    label(write(tmp_path / "in", files | {"png.jpg": png()}), classifier)
    qualities, enlargements = zip(*classifier.file_facts, strict=True)
    assert qualities[:3] == (5, 50, 95)
    assert np.isnan(qualities[3])
    assert enlargements[:3] == (1, 1, 1)


def png() -> bytes:
    return broken_files(encode(photo(30, 30)), np.random.default_rng(0))["png_named.jpg"]


def test_seconds_add_up_to_the_wall_time(
    tmp_path: Path, label: Callable[..., LabelledShard]
) -> None:
    folder = write(tmp_path / "in", GOOD)
    began = time.perf_counter()
    seconds = label(folder, MeanColour(seconds=0.02)).seconds
    wall = time.perf_counter() - began
    exclusive = [seconds[stage] for stage in ("read", "decode", "dct", "model", "rows")]
    assert seconds["model"] >= 3 * 0.02
    assert 0.5 * wall <= sum(exclusive) <= wall
    assert seconds["read_busy"] > 0
    assert seconds["screen_busy"] > 0


def test_a_classifier_that_fails_leaves_the_decoder_for_the_next_attempt(
    tmp_path: Path, label: Callable[..., LabelledShard]
) -> None:
    folder = write(tmp_path / "in", GOOD)
    expected = label(folder, MeanColour()).table
    for batch in (0, 1, 2):
        with pytest.raises(MemoryError) as error:
            label(folder, MeanColour(fails_at_batch=batch))
        # Again while the error, and with it every frame of the failed attempt, is still held.
        assert label(folder, MeanColour()).table.equals(expected)
        del error


def test_an_empty_shard_is_an_empty_table(small_decoder: Decoder) -> None:
    labelled = run(Shard(0, ()), small_decoder, MeanColour())
    assert labelled.table.schema.equals(SCHEMA)
    assert labelled.table.num_rows == 0
    only_bad = run(Shard(0, (ImageRef("/gone"),)), small_decoder, MeanColour())
    assert only_bad.counts == {"ok": 0, "damaged": 0, "rejected": 0, "unreadable": 1}


# Where the images are does not matter either.


def everywhere(s3: Bucket, web: WebServer, folder: Path) -> Iterator[str]:
    """The same images in every kind of collection; folders in the order of the names."""
    files = dict(
        sorted((GOOD | {"cut.jpg": GOOD["good_0.jpg"][:900], "text.jpg": b"text"}).items())
    )
    yield str(write(folder / "in", files))
    archives = {
        "x.tar": (tar := tar_of_files(files)),
        "x.tar.gz": gzip.compress(tar),
        "x.parquet": parquet(key=list(files), image=list(files.values())),
    }
    s3.write(files | archives)
    web.files |= {f"/{name}": data for name, data in (files | archives).items()}
    yield f"{s3.url}/*.jpg"
    for name, data in archives.items():
        (folder / name).write_bytes(data)
        yield str(folder / name)
        yield f"{s3.url}/{name}"
        yield f"{web.url}/{name}"
        signed = folder / f"{name}.list"
        signed.write_text(f"{web.url}/{name}?sig={SECRET}\n")
        yield str(signed)
    each = folder / "each.csv"
    each.write_text("url\n" + "".join(f"{web.url}/{name}?token={SECRET}\n" for name in files))
    yield str(each)


SECRET = "hunter2"


def test_the_rows_are_the_same_wherever_the_images_are(
    s3: Bucket, tmp_path: Path, small_decoder: Decoder
) -> None:
    web = WebServer({})
    expected: list[dict[str, object]] = []
    with web.running():
        for number, location in enumerate(everywhere(s3, web, tmp_path)):
            output = OutputFolder(str(tmp_path / f"output-{number}"))
            output.create()
            write_plan(output, list_images(location), 6)
            plan = Plan(output)
            shards = [plan.shard(index) for index in range(plan.num_shards)]
            tables = [run(shard, small_decoder, MeanColour()).table for shard in shards]
            rows = pa.concat_tables(tables).drop(["uri", "shard"]).to_pylist()
            expected = expected or rows
            assert rows == expected, location
            assert SECRET.encode() not in output.plan.read_bytes()
            assert SECRET not in repr(shards) + repr([table["uri"].to_pylist() for table in tables])
    assert {row["status"] for row in expected} == {"ok", "damaged", "rejected"}


@pytest.mark.usefixtures("persistent")
def test_a_store_that_goes_down_amid_a_shard_leaves_the_decoder_for_the_next_attempt(
    s3: Bucket, proxy: Proxy, small_decoder: Decoder
) -> None:
    s3.write({f"{number:02d}.jpg": GOOD["good_0.jpg"] for number in range(60)})
    shard = Shard(0, tuple(list_images(s3.url)))
    expected = run(shard, small_decoder, MeanColour()).table
    proxy.faults = {r"/[2-5]\d.jpg": ["503:SlowDown"] * 3 * 60}
    with pytest.raises(StoreDownError, match="8 images in a row, the last: HTTP 503"):
        run(shard, small_decoder, MeanColour())
    proxy.faults.clear()
    assert run(shard, small_decoder, MeanColour()).table.equals(expected)
