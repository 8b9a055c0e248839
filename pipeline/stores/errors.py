"""The errors of reading and writing files, and what each of them means for the other files."""

from __future__ import annotations

import errno

# What is wrong with one path. Whatever else the system says may be so for all of them.
_OF_ONE_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.EACCES, errno.EPERM),
)


class StoreError(OSError):
    """A store, or a disk, did not return the bytes or accept them; the message is one line."""


class MissingError(StoreError, FileNotFoundError):
    """There is nothing at the location."""


class ColdStorageError(StoreError):
    """The object is in cold storage, and must be restored first; the store itself is fine."""


class TooLargeError(StoreError):
    """The file has more bytes than its reader allows; the store itself is fine."""


class TransientStoreError(StoreError):
    """All retries failed, but a later try may succeed."""


class ChangedError(TransientStoreError):
    """The file is no longer the one that was opened; the new one can be opened."""


class ShutdownError(TransientStoreError):
    """The request was abandoned because the process is to end; it says nothing about the file."""


class AccessError(RuntimeError):
    """The store refuses every request, as with wrong or expired credentials.

    Or the manifest that has the credentials cannot be read.

    Not an OSError, so that it is never taken for the fault of a single file.
    """


class SourceError(ValueError):
    """A location cannot be used, or a collection not listed whole; the message says what to do."""


def translated(error: OSError) -> OSError:
    """An error of reading a local file, as TransientStoreError where it may not be the file's.

    So it is when the disk fails, or the process has too many open files.
    """
    if isinstance(error, StoreError) or error.errno is None or error.errno in _OF_ONE_FILE:
        return error
    return TransientStoreError(error.errno, error.strerror, error.filename)


def is_content_error(error: Exception) -> bool:
    """Whether an error means that a file is damaged, rather than that it could not be read now.

    pyarrow raises OSError for both, and sets `errno` only for the second.
    """
    if isinstance(error, (StoreError, AccessError)):
        return False
    return getattr(error, "errno", None) in (None, errno.EIO)


def refuses_all_writing(error: OSError | AccessError) -> bool:
    """Whether an error of writing one file means that no other file can be written either."""
    if isinstance(error, StoreError):
        return not isinstance(error, TransientStoreError)
    full_or_read_only = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return isinstance(error, AccessError) or error.errno in full_or_read_only
