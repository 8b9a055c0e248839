"""Ray, and nothing but Ray: started and silenced here and nowhere else."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray

from jobs.last_words import last_words
from jobs.pool import CONTINUES, ClusterError, Node
from pipeline.error_text import one_line, reason_of

_START_ATTEMPTS = 3
_LOCAL_OBJECT_STORE_BYTES = 256 * 1024**2  # only shard numbers and counts cross it
_HOST_AND_PORT = re.compile(r"(\[[\da-fA-F:.]+\]|[^/:\s]+):(\d+)")
_ANSWER_S = 10.0
# Of gRPC, which Ray speaks; a web server does not, and answers in HTTP/1 or with a page.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Ray's native code ends a driver in silence, with exit code 1.
_ENDED = (
    "afd: ended while it worked with Ray (--address {address}): by Ray, as when its cluster's head"
    " node is lost, or by a kill, as for want of memory" + CONTINUES
)

# "ValueError: ...", as the last line of a Python traceback.
_ERROR_LINE = re.compile(r"(?!ray\.)(\w+\.)*\w*(Error|Exception)(: .*)?$")


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drop what native code prints to standard error; exceptions still say what is wrong."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def cluster(address: str, *, num_cpus: int | None = None) -> Iterator[None]:
    """A connection to Ray for the length of the block.

    address: "local" starts a private cluster that ends with the block; anything else joins one.
    num_cpus: for "local", the CPUs to offer; None: all of the machine's.
    Raises ClusterError when there is no cluster at the address.
    """
    # Notices of Ray's own affairs (a coming change to CUDA_VISIBLE_DEVICES, where it keeps an
    # actor's arguments) would break up the progress line.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"address": address}
    if address == "local":
        options |= {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with last_words(_ENDED.format(address=address)):
        _connect(options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # which Ray has taken for itself
        try:
            yield
        finally:
            ray.shutdown()


def _connect(options: dict[str, Any]) -> None:
    """`ray.init`, in silence. A local start has time-outs that a busy machine misses: try again."""
    address = options["address"]
    check_address(address)
    for attempt in range(_START_ATTEMPTS):
        children = set(psutil.Process().children())
        try:
            with _silenced_stderr():  # the log level's own notice
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except ConnectionError as error:
            raise ClusterError(
                f"no Ray cluster at {address!r}: start one with `ray start --head`, or use"
                " --address local"
            ) from error
        except Exception as error:  # Ray raises no type of its own for this
            _kill(set(psutil.Process().children()) - children)
            if address != "local":
                reason = one_line(error)  # where Ray's versions differ it has two lines
                raise ClusterError(
                    f"cannot join the Ray cluster at {address!r}: {reason}"
                ) from error
            if attempt + 1 == _START_ATTEMPTS:
                raise ClusterError(f"Ray did not start: {root_cause(error)}; try again") from error
        else:
            return


def check_address(address: str) -> None:
    """Raise ClusterError where no cluster can be: Ray would try for ten minutes, without a word."""
    if address in ("local", "auto") or address.startswith("ray://"):
        return
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        raise ClusterError(
            f"--address {address!r} is not the address of a Ray cluster: use local, auto,"
            " HOST:6379 or ray://HOST:10001"
        )
    try:
        answer = _answer((found[1].strip("[]"), int(found[2])))
    except (OSError, OverflowError) as error:  # the latter for a port beyond 65535
        raise ClusterError(
            f"no Ray cluster at {address!r} ({reason_of(error)}): start one with"
            " `ray start --head`, or use --address local"
        ) from error
    if answer.startswith((b"HTTP/1", b"<")):
        raise ClusterError(
            f"a web server answers at {address!r}, perhaps Ray's dashboard, and no cluster: use its"
            " HOST:6379 or ray://HOST:10001"
        )


def _answer(host_and_port: tuple[str, int]) -> bytes:
    """The first bytes; none where nothing is said. Raises OSError where nobody listens."""
    with socket.create_connection(host_and_port, _ANSWER_S) as connection, suppress(OSError):
        connection.sendall(_GREETING)
        return connection.recv(16)
    return b""


def _kill(processes: Iterable[psutil.Process]) -> None:
    """End what a start that failed has left: Ray would leave it until this process ends."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for descendant in (*process.children(recursive=True), process):
                descendant.kill()


def nodes() -> list[Node]:
    """The living nodes of the connected cluster that can work."""
    resources = (node["Resources"] for node in ray.nodes() if node["Alive"])
    found = (Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in resources)
    return [node for node in found if node.cpus or node.gpus]


def free() -> tuple[float, float]:
    """The CPUs and GPUs of the connected cluster that no work has taken."""
    resources = ray.available_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def root_cause(error: BaseException) -> str:
    """The line of a remote traceback that names the error, without Ray's path to it or advice."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [type(error).__name__])[-1]
