"""What a private Ray cluster finds on the machine: its token, and its temporary folder."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jobs.pool import ClusterError

_MIN_TEMPORARY_BYTES = 2**20  # Ray's logs, before the first shard
_FOLDER_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
)
OTHER_FOLDER = "; set RAY_TMPDIR to a short, writable folder with room, or use --workers 0"


@contextmanager
def own_token() -> Iterator[None]:
    """A token for one private cluster: Ray would write one to a home that may not be writable."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")  # Ray itself sets the second
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _read_token_again()
    try:
        yield
    finally:  # a cluster that this process joins next has another
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
        _read_token_again()


def _read_token_again() -> None:
    """Make Ray forget the token and the mode that it has read from the environment."""
    with suppress(ImportError, AttributeError):  # no part of Ray's public interface
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")


def check_temporary_folder() -> None:
    """Raise ClusterError when it is full: Ray would wait half a minute for its processes."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with suppress(OSError):  # Ray says what is wrong with it, or creates it
        usage = shutil.disk_usage(folder)
        if usage.total and usage.free < _MIN_TEMPORARY_BYTES:
            raise ClusterError(f"Ray did not start: no room in {folder!r}{OTHER_FOLDER}")


def is_of_temporary_folder(error: Exception) -> bool:
    """True where Ray cannot write to it, or its path is too long for that of a socket."""
    if not isinstance(error, OSError):
        return False
    return error.errno in _FOLDER_ERRORS or "AF_UNIX path length" in str(error)
