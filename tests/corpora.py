"""Files, archives, and a collection with one of everything in it."""

import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.tar_source import container_of, list_tar
from pipeline.records import ImageRef
from pipeline.sources import list_images

JPEG = b"\xff\xd8\xff\xe0"


def write(folder: Path, *names: str) -> None:
    """Files whose content is their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def make_tar(names: list[str], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of files whose content is three times their name; a name may come twice."""
    return tar_of_members([(name, os.fsencode(name) * 3) for name in names], tar_format)


def tar_of_files(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files."""
    return tar_of_members(list(files.items()))


def listed_tar(data: bytes) -> list[ImageRef]:
    """The references into a tar whose location is `x`."""
    container = container_of("x", data[:512])
    assert container is not None
    return list(list_tar(io.BytesIO(data), "x", "x", container))


def tar_of_members(members: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members, of which several may have one name."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tar_format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def listed(location: Path | str, below: Path | str) -> list[str]:
    """The URIs, relative to `below`."""
    return [ref.uri.removeprefix(f"{below}/") for ref in list_images(str(location))]


def parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


COLLECTION = {
    "a.jpg": JPEG,
    "in/1.tar": make_tar(["x.jpg", "x.json", "y.jpg"]),
    "in/2.tar.gz": gzip.compress(make_tar(["z.jpg"])),
    "in/3.tgz": gzip.compress(make_tar(["w.jpg"])),
    "in/4.parquet": parquet(image=[b"0", b"1"]),
    "in/5.parquet": parquet(label=[1, 2]),
    "in/b.jpg": b"b",
    "in/c d/é#?.jpg": b"c",
    "z.jpg": b"z",
}
IN = ["1.tar#x.jpg", "1.tar#y.jpg", "2.tar.gz#z.jpg", "3.tgz#w.jpg", "4.parquet#0", "4.parquet#1"]
IN += ["5.parquet", "b.jpg", "c d/é#?.jpg"]  # a table without images is a row that says so
