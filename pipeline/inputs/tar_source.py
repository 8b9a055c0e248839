"""Tar archives of images, plain or gzip-compressed: lists and reads their members."""

from __future__ import annotations

import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile, GzipFile
from typing import BinaryIO, cast

from pipeline.inputs.tar_members import Member, members_of
from pipeline.records import Container, ImageRef
from pipeline.stores.http_transfer import MAX_BYTES
from pipeline.stores.storage import limit_read_ahead

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
GZIP_MAGIC = b"\x1f\x8b"
IMAGE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf]|jp2|jxl|p[bgp]m)$", re.IGNORECASE
)
# What reading a damaged tar may raise; OSError includes gzip's BadGzipFile.
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)


def container_of(path: str, head: bytes) -> Container | None:
    """The kind of tar, from the file's name or its first 512 bytes; None if it is not a tar."""
    path = path.lower()
    if head.startswith(GZIP_MAGIC):
        return Container.TAR_GZ if path.endswith((".tar.gz", ".tgz")) or _holds_tar(head) else None
    return Container.TAR if head[257:262] == b"ustar" or path.endswith(TAR_SUFFIXES) else None


def _holds_tar(head: bytes) -> bool:
    """Whether the start of a gzip file decompresses to a tar header."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head)[257:262] == b"ustar"
    except zlib.error:
        return False


def list_tar(file: BinaryIO, uri: str, source: str, container: Container) -> Iterator[ImageRef]:
    """The images of a tar in its own order, with one member's header in memory at a time.

    file: open, at its start. uri: the tar's name in the output. source: opens the tar later.
    Every regular file is an image, and so is every link to one, except the metadata of WebDataset
    samples: files with an image's key (`a/7` of `a/7.jpg` and `a/7.json`) but no image's extension.
    Raises one of `TAR_ERRORS` when the archive is damaged or its end is missing.
    """
    for name, offset, num_bytes in _images(members_of(_uncompressed(file, container))):
        yield ImageRef(f"{uri}#{_printable(name)}", source, container, offset, num_bytes)


def _images(members: Iterator[Member]) -> Iterator[Member]:
    key, has_image = "", False
    others: list[Member] = []  # files of this key, while it has no image
    for member in members:
        if _key(member.name) != key:
            yield from others
            key, has_image, others = _key(member.name), False, []
        if IMAGE_NAME.search(member.name):
            has_image, others = True, []
            yield member
        elif not has_image:
            others.append(member)
    yield from others


def range_of_member(ref: ImageRef) -> tuple[int, int]:
    """(start, length) of the member with its header, in bytes of the uncompressed tar.

    Raises OSError when the member is not one contiguous byte range, or too large for an image.
    """
    if ref.offset is None:
        raise OSError("it is a sparse file, or a link without a target before it")
    num_bytes = ref.num_bytes or 0
    if num_bytes > MAX_BYTES:  # a few megabytes of a .tar.gz may stand for it
        raise OSError(f"{num_bytes} bytes: at most {MAX_BYTES} are read at once")
    return ref.offset - tarfile.BLOCKSIZE, num_bytes + tarfile.BLOCKSIZE


def content_of_member(ref: ImageRef, data: bytes) -> bytes:
    """The member's bytes. Raises OSError when the tar has changed since planning.

    data: the bytes of `range_of_member`. The name in the header is not checked: for a link, the
    header is that of the file it leads to.
    """
    num_bytes = ref.num_bytes or 0
    if len(data) != tarfile.BLOCKSIZE + num_bytes:
        raise OSError(f"{ref.source} ends inside this member: it has changed since planning")
    try:
        size = tarfile.nti(data[124:136])  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        size = None
    if size not in (num_bytes, 0):  # 0: the size may be in a pax header instead
        raise OSError(f"{ref.source} has no such member here: it has changed since planning")
    return data[tarfile.BLOCKSIZE :]


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot in the file's name."""
    folder, file_name = posixpath.split(name)
    return posixpath.join(folder, file_name[0:1] + file_name[1:].partition(".")[0])


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _uncompressed(file: BinaryIO, container: Container) -> BinaryIO:
    if container == Container.TAR_GZ:
        return cast(BinaryIO, GzipFile(fileobj=file, mode="rb"))
    return file


class TarReader:
    """Reads members of an open tar; fastest in their order, since gzip cannot seek backwards."""

    def __init__(self, file: BinaryIO, container: Container) -> None:
        self._file = file
        self._tar = _uncompressed(file, container)
        self._compressed = container == Container.TAR_GZ
        self._damage: tuple[int, str] | None = None  # (first unreadable byte, reason)

    @property
    def position(self) -> int:
        """The offset in the uncompressed tar up to which it has been read."""
        return self._tar.tell()

    def read(self, ref: ImageRef) -> bytes:
        """The member's bytes. Raises OSError when they are missing or damaged."""
        start, num_bytes = range_of_member(ref)
        if self._damage and start + num_bytes > self._damage[0]:
            raise OSError(self._damage[1])
        try:
            self._tar.seek(start)
            data = self._tar.read(num_bytes)
        except (EOFError, BadGzipFile, zlib.error) as error:
            # Remembered, so that later members do not decompress everything before it again.
            self._damage = (self.position, f"the archive is damaged: {error}")
            raise OSError(self._damage[1]) from error
        return content_of_member(ref, data)

    def set_last(self, ref: ImageRef) -> None:
        """Announce the last member that will be read: nothing after it is prefetched."""
        if not self._compressed and ref.offset is not None:
            limit_read_ahead(self._file, ref.offset + (ref.num_bytes or 0))

    def close(self) -> None:
        self._tar.close()
        self._file.close()
