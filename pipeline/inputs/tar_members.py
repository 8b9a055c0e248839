"""The members of an uncompressed tar: regular files, links to them, and concatenated tars."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipeline.error_text import one_line

_DRAIN_BYTES = 1 << 20
_MAX_EXTENSION_BYTES = 1 << 24
# Which tarfile copies for every member; `git archive` and pax write a few.
_MAX_GLOBAL_BYTES = 1 << 16
_MAX_GLOBAL_ATTRIBUTES = 1000
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class Member(NamedTuple):
    """offset: of the content, in bytes; None if the content is not one contiguous range."""

    name: str
    offset: int | None
    num_bytes: int | None


class _Header(tarfile.TarInfo):
    """Refuses what only a damaged or crafted tar has: tarfile would read on for hours, or fail."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        limit = _MAX_GLOBAL_BYTES if self.type == tarfile.XGLTYPE else _MAX_EXTENSION_BYTES
        if self.type in _EXTENSIONS and not 0 <= self.size <= limit:
            raise tarfile.ReadError(f"a name or attributes of {self.size} bytes: damaged")
        if len(archive.pax_headers) > _MAX_GLOBAL_ATTRIBUTES:
            raise tarfile.ReadError(
                f"{len(archive.pax_headers)} attributes for all members: damaged"
            )
        try:
            header: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        except (ValueError, RecursionError) as error:
            raise tarfile.ReadError(f"a header is damaged: {one_line(error)}") from error
        if header.size < 0 or archive.offset < header.offset_data:  # it would be found again
            raise tarfile.ReadError(f"a size below zero at byte {header.offset}: damaged")
        return header


def members_of(file: BinaryIO) -> Iterator[Member]:
    """The regular files in the tar's order, and the links to them under the links' names.

    file: seekable, uncompressed. Raises tarfile.TarError when the tar is damaged, or followed by
    data that is not a tar.
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
                yield Member(header.name, None, None)  # gets a row that says why


def _member(header: tarfile.TarInfo) -> Member:
    if header.issparse():  # the tar does not store its holes
        return Member(header.name, None, None)
    return Member(header.name, header.offset_data, header.size)


def _links(file: BinaryIO) -> dict[int, Member]:
    """The targets of the links to regular files of the tar, by the offset of the links' headers.

    Reads all headers once more, with all names in memory; few tars have links.
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
    """The headers of a tar, and of further tars that `cat` has appended to it."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        # "r:" never decompresses, so an offset in the tar is an offset in the file.
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
            for header in archive:
                archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
                yield header
            start = _next_archive(file, archive.offset)


def _next_archive(file: BinaryIO, end: int) -> int | None:
    """The offset of the next tar in the file after `end`; None if only zeros follow.

    Reads to the end of the file, which also verifies the checksum of a gzip file.
    """
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        # tarfile treats a damaged header as the end of the archive; a real end is zeros or EOF.
        raise tarfile.ReadError(f"no tar header at byte {end}: damaged, or not part of the tar")
    at = end + tarfile.BLOCKSIZE
    while block := file.read(_DRAIN_BYTES):
        if rest := block.lstrip(b"\0"):
            first = at + len(block) - len(rest)
            return first - first % tarfile.BLOCKSIZE
        at += len(block)
    return None
