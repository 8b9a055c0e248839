"""Starts or joins Ray and runs shards on it. No other module starts Ray."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
import ray.data
import ray.exceptions
import ray.util.client

from jobs.pool import SAME_COMMAND_CONTINUES, ClusterError, Node, Pool
from jobs.watchdog import reported_if_killed
from pipeline.error_text import one_line, reason_of

_START_ATTEMPTS = 3
_LOCAL_OBJECT_STORE_BYTES = 256 * 1024**2  # enough: only shard numbers and counts go through it
_MAX_BLOCKS = 10_000  # each costs Ray Data 5 to 10 kB of the driver's memory, and 15 ms

# The pool grows when the running calls reach this share of what its workers can run at once. Ray's
# default, 1.75, would never be reached: it includes calls that wait in a queue, and here none do.
_UPSCALING_THRESHOLD = 0.875

_THREADS_TIMEOUT_S = 5.0
_ENDLESS_THREADS = ("data-usage-metrics-poller",)  # harmless: it only queries Prometheus

_HOST_AND_PORT = re.compile(r"(\[[\da-fA-F:.]+\]|[^/:\s]+):(\d+)")
_PROBE_TIMEOUT_S = 10.0
# The start of a gRPC connection, which Ray accepts. A web server answers in HTTP/1, or with a page.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_KILLED = (
    "afd: the process was ended while it used Ray (--address {address}): by Ray, for example"
    " because the cluster's head node was lost, or by the system, for example because memory ran"
    " out" + SAME_COMMAND_CONTINUES
)

# "ValueError: ...", as the last line of a Python traceback.
_ERROR_LINE = re.compile(r"(?!ray\.)(\w+\.)*\w*(Error|Exception)(: .*)?$")


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Discard what native code prints to standard error; errors are still raised."""
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
    """A connection to Ray that lasts for the block.

    address: "local" starts a private cluster that ends with the block; anything else joins one.
    num_cpus: CPUs of a private cluster; None: all of the machine's.
    Raises ClusterError when there is no cluster at the address.
    """
    # Ray's notices (about coming changes to CUDA_VISIBLE_DEVICES, about where it stores an actor's
    # arguments) would break up the progress line.
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
    with reported_if_killed(_KILLED.format(address=address)):
        _connect(options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init installs its own handler
        try:
            yield
        finally:
            ray.shutdown()


def _connect(options: dict[str, Any]) -> None:
    """`ray.init` without its output. A local start is retried: a busy machine misses its time-outs.

    Raises ClusterError when it fails.
    """
    address = options["address"]
    check_address(address)
    for attempt in range(_START_ATTEMPTS):
        children = set(psutil.Process().children())
        try:
            with _silenced_stderr():  # Ray prints a notice about the log level
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except ConnectionError as error:
            raise ClusterError(
                f"no Ray cluster at {address!r}: start one with `ray start --head`, or use"
                " --address local"
            ) from error
        except Exception as error:  # Ray raises plain Exception and RuntimeError here
            _kill(set(psutil.Process().children()) - children)
            if address != "local":
                reason = one_line(error)  # two lines when Ray's versions differ
                raise ClusterError(
                    f"cannot join the Ray cluster at {address!r}: {reason}"
                ) from error
            if attempt + 1 == _START_ATTEMPTS:
                raise ClusterError(f"Ray did not start: {_root_cause(error)}; try again") from error
        else:
            return


def check_address(address: str) -> None:
    """Raise ClusterError when no cluster is at the address: Ray would try silently for ten minutes.

    No error for "local", "auto" and ray:// addresses, which Ray checks quickly itself.
    """
    if address in ("local", "auto") or address.startswith("ray://"):
        return
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        raise ClusterError(
            f"--address {address!r} is not the address of a Ray cluster: use local, auto,"
            " HOST:6379 or ray://HOST:10001"
        )
    try:
        answer = _first_bytes((found[1].strip("[]"), int(found[2])))
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        raise ClusterError(
            f"no Ray cluster at {address!r} ({reason_of(error)}): start one with"
            " `ray start --head`, or use --address local"
        ) from error
    if answer.startswith((b"HTTP/1", b"<")):
        raise ClusterError(
            f"a web server answers at {address!r}, perhaps Ray's dashboard, not a Ray cluster: use"
            " the cluster's HOST:6379 or ray://HOST:10001"
        )


def _first_bytes(host_and_port: tuple[str, int]) -> bytes:
    """What a server answers to a gRPC client; b"" for none. Raises OSError when none listens."""
    with socket.create_connection(host_and_port, _PROBE_TIMEOUT_S) as connection, suppress(OSError):
        connection.sendall(_HTTP2_PREFACE)
        return connection.recv(16)
    return b""


def _kill(processes: Iterable[psutil.Process]) -> None:
    """Kill what a failed start has left behind; Ray would leave it until this process ends."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for descendant in (*process.children(recursive=True), process):
                descendant.kill()


def nodes() -> list[Node]:
    """The live nodes of the connected cluster that have CPUs or GPUs."""
    resources = (node["Resources"] for node in ray.nodes() if node["Alive"])
    found = (Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in resources)
    return [node for node in found if node.cpus or node.gpus]


def free() -> tuple[float, float]:
    """The unused CPUs and GPUs of the connected cluster."""
    resources = ray.available_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def run_shards(
    shards: Sequence[int],
    worker: type,
    arguments: dict[str, Any],
    pool: Pool,
    *,
    shards_at_once: int,
) -> Generator[dict[str, Any], None, None]:
    """Give each shard number to one of the pool's workers; yields their records as they end.

    worker: a class; Ray calls its instances with {"shard": (1,) array}, from `shards_at_once`
        threads, and expects {"record": [JSON]}. arguments: of its constructor.
    Ray Data's unit of retry is the block: when a process or node dies, another worker runs the
    block again. A block is one shard. Beyond `_MAX_BLOCKS` shards it is several, and the worker
    has to skip those that are already done.
    Raises ClusterError when the job cannot go on.
    """
    try:
        if ray.util.client.ray.is_connected():
            yield from _run_remotely(shards, worker, arguments, pool, shards_at_once)
        else:
            yield from _run_here(shards, worker, arguments, pool, shards_at_once)
    except (ray.exceptions.RayError, RuntimeError) as error:
        reason = _root_cause(error)
        died = isinstance(error, ray.exceptions.ActorDiedError)
        if died and "creation task" in str(error):  # the workers' own constructors never raise
            reason += ": every node needs this package, in the same version as the driver's"
        raise ClusterError(reason) from error


def _run_remotely(*run: Any) -> Iterator[dict[str, Any]]:
    """`_run_here` in an actor: Ray Data cannot run in a Ray Client's process (ray:// addresses)."""
    runner: Any = ray.remote(num_cpus=0)(_Runner).remote(*run)
    while (record := ray.get(runner.next_record.remote())) is not None:
        yield record


class _Runner:
    """The actor: runs `_run_here` and gives out one record per call."""

    def __init__(self, *run: Any) -> None:
        self._records = _run_here(*run)

    def next_record(self) -> dict[str, Any] | None:
        return next(self._records, None)


def _run_here(
    shards: Sequence[int],
    worker: type,
    arguments: dict[str, Any],
    pool: Pool,
    shards_at_once: int,
) -> Iterator[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _UPSCALING_THRESHOLD
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    records = ray.data.from_items(
        [{"shard": shard} for shard in shards], override_num_blocks=min(len(shards), _MAX_BLOCKS)
    ).map_batches(
        worker,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.num_workers,
            max_size=max(pool.num_workers, pool.max_workers),
            max_concurrent_calls_per_actor=shards_at_once,
            # By default Ray queues as many again per worker; at the end others would be idle.
            max_tasks_in_flight_per_actor=shards_at_once,
            enable_true_multi_threading=shards_at_once > 1,
        ),
    )
    # Not `iter_rows`: when it is abandoned, its threads run on for an unknown time.
    with _new_threads_joined():
        for bundle in records.iter_internal_ref_bundles():
            for table in ray.get(list(bundle.block_refs)):
                yield from map(json.loads, table["record"].to_pylist())


@contextmanager
def _new_threads_joined() -> Iterator[None]:
    """On leaving the block, wait for the threads that Ray Data started in it.

    A thread that still calls Ray after `ray.shutdown` ends the whole process without a message.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        deadline = time.monotonic() + _THREADS_TIMEOUT_S
        for thread in set(threading.enumerate()) - before:
            if thread.name not in _ENDLESS_THREADS:
                thread.join(max(0.0, deadline - time.monotonic()))


def _root_cause(error: BaseException) -> str:
    """The line of a remote traceback that names the error, without Ray's own frames and advice."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [type(error).__name__])[-1]
