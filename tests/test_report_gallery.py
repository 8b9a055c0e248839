"""Thumbnails: of everything that can be read, and of nothing that lies about itself."""

import base64
import io
import tarfile
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jpegs import encode, every_kind, photo, save
from PIL import Image, ImageColor, ImageFile

from jobs.demo_corpus import with_declared_size
from jobs.reporting.gallery import SIDE, Thumbnails, thumbnail
from pipeline.output import OutputFolder
from pipeline.records import ImageRef
from pipeline.shards import write_plan
from pipeline.sources import list_images


def opened(data_uri: str | None) -> Image.Image:
    assert data_uri is not None
    head, _, body = data_uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)), formats=["JPEG"])


KINDS = [kind for kind in every_kind(photo(64, 64)) if kind != "lossless"]  # Pillow cannot


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg(kind: str) -> None:
    image = opened(thumbnail(every_kind(photo(300, 500))[kind]))
    assert image.size == (SIDE, round(SIDE * 3 / 5))
    assert image.mode == "RGB"


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_other_formats(image_format: str) -> None:
    data = save(photo(300, 500), image_format)
    assert opened(thumbnail(data)).size[0] == SIDE
    small = save(photo(20, 10), image_format)
    assert opened(thumbnail(small)).size == (10, 20)


def test_what_is_left_of_a_damaged_image() -> None:
    whole = encode(photo(300, 500))
    image = opened(thumbnail(whole[: len(whole) // 2])).convert("L")
    assert len(set(image.crop((0, 0, SIDE, 20)).tobytes())) > 20
    assert len(set(image.crop((0, image.height - 10, SIDE, image.height)).tobytes())) <= 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims to be so large, of a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return len(body).to_bytes(4, "big") + kind + body + crc.to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"\xff\xd8\xff",
        save(photo(64, 64), "GIF"),
        png_of(60_000, 60_000),
        png_of(10_000, 9_000),
        with_declared_size(encode(photo(64, 64)), 65_500, 65_500),
    ],
    ids=["empty", "html", "header only", "gif", "huge png", "large png", "huge jpeg"],
)
def test_no_thumbnail_and_no_trouble(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        began = time.monotonic()
        assert thumbnail(data) is None
        assert time.monotonic() - began < 2


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    """Two files, one of them gone, and a tar of two, planned as three shards."""
    folder = OutputFolder(str(tmp_path / "out"))
    folder.create()
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a.jpg", "gone.jpg"):
        (images / name).write_bytes(encode(photo(60, 80)))
    with tarfile.open(images / "x.tar", "w") as archive:
        for quality in (30, 90):
            data = encode(photo(60, 80), quality=quality)
            member = tarfile.TarInfo(f"q{quality}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    write_plan(folder, list_images(str(images)), 1)
    (images / "gone.jpg").unlink()
    return folder


def row(uri: str, shard: int, num_bytes: int | None, number: int = 0) -> dict[str, Any]:
    return {"uri": uri, "shard": shard, "row": number, "num_bytes": num_bytes}


def made(output: OutputFolder, *rows: dict[str, Any], budget_s: float = 60) -> list[bool]:
    added = Thumbnails(output, budget_s=budget_s).add(list(rows))
    return [row["thumbnail"] is not None for row in added]


def test_sources_that_can_be_read(output: OutputFolder, tmp_path: Path) -> None:
    size = (tmp_path / "in/a.jpg").stat().st_size
    tar = f"{tmp_path}/in/x.tar"
    sizes = [len(encode(photo(60, 80), quality=q)) for q in (30, 90)]
    rows = [
        row(f"{tmp_path}/in/a.jpg", 0, size),
        row(f"{tmp_path}/in/gone.jpg", 1, size),
        row(f"{tar}#q30.jpg", 2, sizes[0]),
        row(f"{tar}#q90.jpg", 3, sizes[1]),
        row("/nowhere/\0.jpg", 0, 5),
    ]
    assert made(output, *rows) == [True, False, True, True, False]
    output.plan.unlink()
    assert made(output, *rows) == [True, False, False, False, False]
    output.plan.mkdir()  # there, and not to be read
    assert made(output, *rows) == [True, False, False, False, False]


def test_images_of_one_uri_have_their_own_pictures(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue"]
    files = [save(Image.new("RGB", (64, 64), colour), "JPEG").ljust(2000) for colour in colours]
    pq.write_table(pa.table({"image": files, "id": ["7"] * 3}), tmp_path / "x.parquet")
    output = OutputFolder(str(tmp_path / "out"))
    output.create()
    write_plan(output, list_images(str(tmp_path / "x.parquet")), 3)
    rows = [row("7", 0, 2000, number) for number in range(3)]
    for colour, shown in zip(colours, Thumbnails(output, budget_s=60).add(rows), strict=True):
        pixel = np.array(opened(shown["thumbnail"]).getpixel((0, 0)))
        assert np.abs(pixel - ImageColor.getrgb(colour)).max() < 5


def test_rows_of_other_images_than_the_plans_are_shown_by_their_uris(
    output: OutputFolder, tmp_path: Path
) -> None:
    size = (tmp_path / "in/a.jpg").stat().st_size
    rows = [row(f"{tmp_path}/in/a.jpg", *place) for place in ((1, size), (0, size, 1), (9, size))]
    assert made(output, *rows) == [True, True, True]


def test_a_store_that_lets_nobody_in_costs_its_own_pictures_alone(
    output: OutputFolder, tmp_path: Path, expired: str
) -> None:
    size = (tmp_path / "in/a.jpg").stat().st_size
    here = row(f"{tmp_path}/in/a.jpg", 0, size)
    assert made(output, row(f"{expired}/0.jpg", 0, size), here) == [False, True]


def test_another_file_by_now_is_not_shown(output: OutputFolder, tmp_path: Path) -> None:
    size = (tmp_path / "in/a.jpg").stat().st_size
    uri = f"{tmp_path}/in/a.jpg"
    assert made(output, row(uri, 0, size + 1), row(uri, 0, None)) == [False, False]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(10 * 2**30)  # takes no room
    output = OutputFolder(str(tmp_path / "out"))
    output.create()
    write_plan(output, [ImageRef(str(large))], 1)
    assert made(output, row(str(large), 0, 10 * 2**30)) == [False]


def test_no_picture_is_begun_after_its_time(output: OutputFolder, tmp_path: Path) -> None:
    size = (tmp_path / "in/a.jpg").stat().st_size
    assert made(output, row(f"{tmp_path}/in/a.jpg", 0, size), budget_s=-1) == [False]
