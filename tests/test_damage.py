"""Hostile and damaged files in a shard: a row each, in bounded time, and their neighbours whole."""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from damage import KINDS, damaged
from jpegs import encode, photo

from afd_model.backbones import load_backbone
from afd_model.classifier import AFDClassifier
from afd_model.inference.predictor import Predictor
from pipeline.decode import Decoder
from pipeline.label_shard import label_shard
from pipeline.records import ImageRef, Shard
from pipeline.screening.screen import Limits

FILES_OF_EACH_KIND = 4
SECONDS_A_BAD_FILE = 0.5  # of this, a busy machine is most


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    classifier = AFDClassifier(load_backbone("mobilenet_v3_small", "none"), None)
    return Predictor(classifier, device=torch.device("cpu"), precision=torch.float32)


def label(paths: list[Path], decoder: Decoder, predictor: Predictor) -> pl.DataFrame:
    shard = Shard(0, tuple(ImageRef(str(path)) for path in paths))
    found = label_shard(
        shard, decoder=decoder, predict=predictor, class_names=None, limits=Limits()
    )
    rows = pl.from_arrow(found.table)
    assert isinstance(rows, pl.DataFrame)
    return rows


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    paths = []
    for index in range(120):
        paths.append(folder / f"{index:03d}.jpg")
        paths[-1].write_bytes(encode(photo(80, 90, seed=index % 40), quality=30 + index % 60))
    return paths


def test_bad_neighbours_change_no_label_and_every_file_has_its_row(
    good: list[Path], tmp_path: Path, small_decoder: Decoder, predictor: Predictor
) -> None:
    alone = label(good, small_decoder, predictor)
    bad = []
    for kind in KINDS:
        for seed in range(FILES_OF_EACH_KIND):
            path = tmp_path / f"{kind.replace('/', '_')}-{seed}.jpg"
            path.write_bytes(damaged(kind, seed))
            bad.append(path)
    mixed = [path for pair in zip(good, bad, strict=False) for path in pair]
    mixed += good[len(bad) :] + bad[len(good) :]
    began = time.monotonic()
    rows = label(mixed, small_decoder, predictor)
    spent = time.monotonic() - began

    assert rows["uri"].to_list() == [str(path) for path in mixed]
    assert rows.filter(pl.col("status") != "ok")["error"].null_count() == 0
    assert rows.filter(pl.col("status").is_in(["ok", "damaged"]))["label"].null_count() == 0
    names = [str(path) for path in good]
    again = rows.filter(pl.col("uri").is_in(names)).sort("uri")
    exact = ["uri", "status", "width", "height", "jpeg_quality", "label"]
    assert again.select(exact).equals(alone.sort("uri").select(exact))
    np.testing.assert_allclose(again["confidence"], alone.sort("uri")["confidence"], atol=1e-5)
    assert spent < SECONDS_A_BAD_FILE * len(bad)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("4000 scans", "rejected"),
        ("60 scans", "ok"),
        ("declared 65500x65500", "rejected"),
        ("thousands of segments", "rejected"),
        ("giant ICC profile", "ok"),
        ("1x1", "ok"),
        ("1 pixel high", "ok"),
        ("zip polyglot", "ok"),
        ("two files in one", "ok"),
        ("empty", "rejected"),
    ],
)
def test_what_becomes_of_it(
    kind: str, status: str, tmp_path: Path, small_decoder: Decoder, predictor: Predictor
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(damaged(kind, 0))
    rows = label([path], small_decoder, predictor)
    assert rows["status"].to_list() == [status], rows["error"].to_list()
