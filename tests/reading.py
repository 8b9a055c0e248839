"""What is read in the tests of reading, and how."""

import gzip
from collections.abc import Sequence
from pathlib import Path

from corpora import parquet, tar_of_files
from jpegs import encode, photo

from pipeline.reading.read_ahead import ReadAhead
from pipeline.records import ImageRef
from pipeline.screening.screen import Limits

JPEG = encode(photo(16, 16))


def written(folder: Path, count: int) -> list[ImageRef]:
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(JPEG)
    return [ImageRef(str(folder / f"{number:03d}.jpg")) for number in range(count)]


def reading(
    refs: Sequence[ImageRef], *, num_threads: int = 3, max_images: int = 32, max_pixels: int = 10**8
) -> ReadAhead:
    return ReadAhead(refs, Limits(max_pixels), num_threads=num_threads, max_images=max_images)


def widths(ahead: ReadAhead) -> list[int | None]:
    return [image.size[1] if image.size else None for image in ahead]


def archive_of(count: int) -> dict[str, bytes]:
    """The same images in each kind of archive, each of another width."""
    jpegs = {f"{row}.jpg": encode(photo(16, 16 + row)) for row in range(count)}
    tar = tar_of_files(jpegs)
    table = parquet(image=list(jpegs.values()))
    return {"a.tar": tar, "b.tar.gz": gzip.compress(tar), "c.parquet": table}
