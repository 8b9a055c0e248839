"""A collection of images -> references in a stable order, and the bytes behind a reference.

What a path is, is decided here and nowhere else: a folder (recursive), a glob, a tar, a manifest
(a text file or a Parquet file of paths), or a single image. To add a kind, add its lister to
`_listers` and, if its bytes are not a file or a range of one, its case to `read_image`.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import ImageRef

_PATH_COLUMNS = ("path", "uri", "url", "file", "file_name", "filename", "image_path")
_SNIFF_BYTES = 512  # enough for tar's magic, which stands at byte 257
_MANIFEST_BATCH_ROWS = 65_536
_SCHEME = re.compile(r"(?!file:)([A-Za-z][A-Za-z0-9+.-]*)://")


class SourceError(ValueError):
    """The collection as a whole cannot be listed; the message says what to do."""


def list_images(location: str) -> Iterator[ImageRef]:
    """Every image of a collection, in a stable order.

    location: a folder, a glob pattern, a tar, a manifest or one image file.
    Folders are listed in the byte order of their paths, tars and manifests in their own order.
    Every regular file of a folder counts, whatever its name: what is not an image gets a row that
    says so. Raises SourceError when there is nothing to list.
    """
    listed = False
    for ref in _list(location):
        listed = True
        yield ref
    if not listed:
        raise SourceError(
            f"no files in {location!r}: give a folder, glob, manifest or tar of images"
        )


def _list(location: str) -> Iterator[ImageRef]:
    _refuse_remote(location)
    path = os.path.abspath(_local_path(location))
    if os.path.isdir(path):
        yield from _list_folder(path)
    elif os.path.exists(path):
        yield from _lister_of_file(path)(path)
    elif glob.has_magic(location):
        yield from _list_glob(_local_path(location))
    else:
        raise SourceError(f"no such file or folder: {location!r}")


def _refuse_remote(location: str) -> None:
    if found := _SCHEME.match(location):
        raise SourceError(f"cannot read {location!r}: {found[0]} is not supported yet, give a path")


def _lister_of_file(path: str) -> Callable[[str], Iterator[ImageRef]]:
    """The lister for a file that the user named as the collection, decided by its content."""
    try:
        with open(path, "rb") as file:
            head = file.read(_SNIFF_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read {path!r}: {error.strerror}") from error
    if head[257:262] == b"ustar" or path.endswith(".tar"):
        return _list_tar
    if head[:4] == b"PAR1":
        return _list_parquet_manifest
    if head[:2] == b"\x1f\x8b":
        raise SourceError(f"{path!r} is compressed (gzip): decompress it first, with gunzip")
    if b"\0" in head or head[:2] == b"\xff\xd8" or path.lower().endswith((".jpg", ".jpeg")):
        return _list_one
    return _list_text_manifest


def _list_entry(path: str) -> Iterator[ImageRef]:
    """One path found in a folder, glob or manifest: the images of a tar, else the file itself."""
    if path.endswith(".tar") and os.path.isfile(path):
        yield from _list_tar(path)
    else:
        yield from _list_one(path)


def _list_one(path: str) -> Iterator[ImageRef]:
    yield ImageRef(uri=_uri_of(path))


def _list_folder(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[ImageRef]:
    real = os.path.realpath(folder)
    if real in ancestors:  # a symbolic link back to a parent
        return
    try:
        with os.scandir(folder) as entries:
            # A trailing slash makes the order that of whole paths, as an object store lists them.
            found = sorted(
                (os.fsencode(e.name) + (b"/" if _is_folder(e) else b""), e.path, _is_folder(e))
                for e in entries
                if e.is_symlink() or e.is_dir() or e.is_file()
            )
    except OSError as error:
        raise SourceError(f"cannot list {folder!r}: {error.strerror}") from error
    for _, path, is_folder in found:
        yield from _list_folder(path, ancestors | {real}) if is_folder else _list_entry(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself: its row will say so
        return False


def _list_glob(pattern: str) -> Iterator[ImageRef]:
    top, *parts = (
        Path(pattern).parts if os.path.isabs(pattern) else (os.getcwd(), *Path(pattern).parts)
    )
    found = {os.path.abspath(path) for path in _matches(top, parts)}  # two `**` find a file twice
    for path in sorted(found, key=os.fsencode):
        if not os.path.isdir(path):
            yield from _list_entry(path)


def _matches(folder: str, parts: list[str]) -> Iterator[str]:
    """What matches a pattern's parts below a folder.

    `glob` alone would follow a symbolic link to a parent forty times, and two of them for ever.
    """
    if not parts:
        yield folder
    elif parts[0] == "**":
        for below in _folders_below(folder):
            yield from _matches(below, parts[1:] or ["*"])
    else:
        pattern = os.path.join(glob.escape(folder), parts[0])
        for path in glob.iglob(pattern, include_hidden=True):
            yield from _matches(path, parts[1:])


def _folders_below(folder: str, ancestors: frozenset[str] = frozenset()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in ancestors or not os.path.isdir(folder):
        return
    yield folder
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _is_folder(entry)]
    except OSError as error:
        raise SourceError(f"cannot list {folder!r}: {error.strerror}") from error
    for path in found:
        yield from _folders_below(path, ancestors | {real})


def _list_tar(path: str) -> Iterator[ImageRef]:
    uri = _uri_of(path)
    try:
        # Opened without decompression: a member's bytes are then a plain range of the file.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
                if member.isfile():
                    yield ImageRef(
                        uri=f"{uri}#{_printable(member.name)}",
                        source=uri,
                        offset=member.offset_data,
                        num_bytes=member.size,
                    )
            # tarfile takes a damaged header for the archive's end, which is zeros or nothing.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {archive.offset}")
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"cannot list the tar {path!r}: {error}") from error


def _list_text_manifest(path: str) -> Iterator[ImageRef]:
    folder = os.path.dirname(path)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            if entry := line.rstrip("\r\n"):
                yield from _list_manifest_entry(entry, folder)


def _list_parquet_manifest(path: str) -> Iterator[ImageRef]:
    try:
        manifest = pq.ParquetFile(path)
        column = _path_column(manifest.schema_arrow, path)
        folder = os.path.dirname(path)
        for batch in manifest.iter_batches(_MANIFEST_BATCH_ROWS, columns=[column]):
            for entry in batch.column(0).to_pylist():
                if entry:
                    yield from _list_manifest_entry(entry, folder)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read the manifest {path!r}: {error}") from error


def _list_manifest_entry(entry: str, folder: str) -> Iterator[ImageRef]:
    """Relative entries are relative to the manifest; a missing file shows when it is read."""
    _refuse_remote(entry)
    yield from _list_entry(os.path.join(folder, _local_path(entry)))


def _path_column(schema: pa.Schema, path: str) -> str:
    text = [field.name for field in schema if _is_text(field.type)]
    for name in _PATH_COLUMNS:
        if name in text:
            return name
    if len(text) == 1:
        return text[0]
    raise SourceError(
        f"the manifest {path!r} has no column of paths: name one of its string columns 'path'"
        f" (found {', '.join(schema.names) or 'no columns'})"
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _uri_of(path: str) -> str:
    """A path as text that any reader can store; a name that is not UTF-8 becomes a file:// URI."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def _local_path(uri: str) -> str:
    return os.fsdecode(unquote_to_bytes(uri[7:])) if uri.startswith("file://") else uri


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_image(ref: ImageRef) -> bytes:
    """The encoded bytes behind a reference.

    Raises OSError when they cannot be fetched; a tar that has become shorter counts as that too.
    """
    try:
        return _read_bytes(ref)
    except ValueError as error:  # a null byte in a manifest's path
        raise OSError(f"not a file's path: {error}") from error


def _read_bytes(ref: ImageRef) -> bytes:
    if ref.source is None:
        return Path(_local_path(ref.uri)).read_bytes()
    with open(_local_path(ref.source), "rb") as archive:
        archive.seek(ref.offset or 0)
        data = archive.read(ref.num_bytes)
    if ref.num_bytes is not None and len(data) != ref.num_bytes:
        raise OSError(f"{ref.source} ends inside this member: it has changed since planning")
    return data
