"""What an uncompressed tar holds: its regular files, the links to them, and the tars behind it."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_DRAIN_BYTES = 1 << 20


class Member(NamedTuple):
    """offset: of the content in the uncompressed tar; None where it does not stand in one piece."""

    name: str
    offset: int | None
    num_bytes: int | None


def members_of(file: BinaryIO) -> Iterator[Member]:
    """The regular files in the tar's order, and the links to them under their own names.

    file: seekable, uncompressed. Raises tarfile.TarError where the tar is damaged or other data
    follows it.
    """
    links: dict[int, Member] | None = None
    for header in _headers(file):
        if header.isfile():
            yield _member(header)
        elif header.islnk() or header.issym():
            if links is None:
                links = _links(file)
            if header.offset in links:
                yield links[header.offset]
            elif header.islnk():
                yield Member(header.name, None, None)  # its row will say so


def _member(header: tarfile.TarInfo) -> Member:
    if header.issparse():  # its holes are left out of the tar
        return Member(header.name, None, None)
    return Member(header.name, header.offset_data, header.size)


def _links(file: BinaryIO) -> dict[int, Member]:
    """What the links to regular files of the tar stand for, by the offset of their headers.

    Goes over the whole tar once more and holds its names meanwhile; few tars have links.
    """
    files: dict[str, Member] = {}
    links: dict[int, Member] = {}
    symbolic: list[tuple[int, str, str]] = []
    for header in _headers(file):
        name = posixpath.normpath(header.name)
        if header.isfile():
            files[name] = _member(header)
        elif header.islnk() and (found := files.get(posixpath.normpath(header.linkname))):
            files[name] = links[header.offset] = found._replace(name=header.name)
        elif header.issym():
            target = posixpath.join(posixpath.dirname(name), header.linkname)
            symbolic.append((header.offset, header.name, posixpath.normpath(target)))
    for offset, name, target in symbolic:
        if found := files.get(target):
            links[offset] = found._replace(name=name)
    return links


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, and of those that `cat` has put behind it."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        # Opened without decompression: a member's bytes are then a plain range of the file.
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for header in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
                yield header
            start = _next_archive(file, archive.offset)


def _next_archive(file: BinaryIO, end: int) -> int | None:
    """Where something stands behind a tar that ends at `end`; None where nothing but zeros does.

    Reads all of the file, as the checksum of a compressed one stands at its end.
    """
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        # tarfile takes a damaged header for the archive's end, which is zeros or nothing.
        raise tarfile.ReadError(f"no tar header at byte {end}: damaged, or no part of the tar")
    at = end + tarfile.BLOCKSIZE
    while block := file.read(_DRAIN_BYTES):
        if rest := block.lstrip(b"\0"):
            first = at + len(block) - len(rest)
            return first - first % tarfile.BLOCKSIZE
        at += len(block)
    return None
