"""Ray, and nothing but Ray: started, silenced and given shards here and nowhere else."""

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

import grpc
import psutil
import ray
import ray.data
import ray.exceptions
import ray.util.client

from jobs.last_words import last_words
from jobs.pool import CONTINUES, ClusterError, Node, Pool
from pipeline.error_text import one_line, reason_of

_START_ATTEMPTS = 3
_LOCAL_OBJECT_STORE_BYTES = 256 * 1024**2  # only shard numbers and counts cross it
_MAX_BLOCKS = 10_000  # Ray Data takes 5 to 10 kB of the driver's memory and 15 ms for each

# A pool grows when its workers are given this share of the calls that they can take at once. Ray's
# default, 1.75, counts on calls that wait in a queue; there is no queue here.
_FULL_POOL = 0.875

_THREADS_END_S = 5.0
_ENDLESS_THREADS = ("data-usage-metrics-poller",)  # which only asks Prometheus

_HOST_AND_PORT = re.compile(r"(\[[\da-fA-F:.]+\]|[^/:\s]+):(\d+)")
_ANSWER_S = 10.0
_CLIENT, _CLIENT_METHOD = "ray://", "/ray.rpc.RayletDriver/ClusterInfo"
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
                raise ClusterError(f"Ray did not start: {_root_cause(error)}; try again") from error
        else:
            return


def check_address(address: str) -> None:
    """Raise ClusterError where no cluster can be: Ray would try for ten minutes, without a word."""
    if address in ("local", "auto"):
        return
    place = address.removeprefix(_CLIENT)
    found = _HOST_AND_PORT.fullmatch(place)
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
    if address.startswith(_CLIENT) and not _is_client_server(place):
        raise ClusterError(
            f"no Ray Client at {address!r}, but perhaps a cluster: use its port 10001"
            f" (--ray-client-server-port), or --address {place}"
        )


def _is_client_server(host_and_port: str) -> bool:
    """False where another of Ray's servers says that it does not know what Ray Client asks."""
    with grpc.insecure_channel(host_and_port) as channel:
        try:
            channel.unary_unary(_CLIENT_METHOD)(b"", timeout=_ANSWER_S)
        except grpc.RpcError as error:
            known: bool = error.code() is not grpc.StatusCode.UNIMPLEMENTED
            return known
    return True


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


def run_shards(
    shards: Sequence[int],
    worker: type,
    arguments: dict[str, Any],
    pool: Pool,
    *,
    shards_at_once: int,
) -> Generator[dict[str, Any], None, None]:
    """Hand each shard number to one of the pool's workers; yields their records as they end.

    worker: called with {"shard": (1,) array}, returns {"record": [JSON]}; by so many threads as
    `shards_at_once`.
    One shard is one block, so that a retry costs one shard: Ray runs it again on another worker
    when a process or a node dies. Beyond `_MAX_BLOCKS` shards a block holds several, and a worker
    is to pass over those that are done. Raises ClusterError when the job cannot go on.
    """
    try:
        if ray.util.client.ray.is_connected():
            yield from _run_remotely(shards, worker, arguments, pool, shards_at_once)
        else:
            yield from _run_here(shards, worker, arguments, pool, shards_at_once)
    except (ray.exceptions.RayError, RuntimeError) as error:
        reason = _root_cause(error)
        died = isinstance(error, ray.exceptions.ActorDiedError)
        if died and "creation task" in str(error):  # `worker` itself raises nothing when it is made
            reason += ": every node needs this package, in the same version as the driver's"
        raise ClusterError(reason) from error


def _run_remotely(*run: Any) -> Iterator[dict[str, Any]]:
    """Ray Data runs in processes of the cluster only, which a Ray Client's is not."""
    runner: Any = ray.remote(num_cpus=0)(_Runner).remote(*run)
    while (record := ray.get(runner.next_record.remote())) is not None:
        yield record


class _Runner:
    """An actor: `_run_here`, a record at a time."""

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
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _FULL_POOL
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
            # Ray would queue as many again on each worker, while others stand idle at the end.
            max_tasks_in_flight_per_actor=shards_at_once,
            enable_true_multi_threading=shards_at_once > 1,
        ),
    )
    # Not `iter_rows`: its threads go on after it is abandoned, for an unknown time.
    with _threads_ended():
        for bundle in records.iter_internal_ref_bundles():
            for table in ray.get(list(bundle.block_refs)):
                yield from map(json.loads, table["record"].to_pylist())


@contextmanager
def _threads_ended() -> Iterator[None]:
    """Leave the block when the threads are gone that Ray Data has begun within it.

    One that asks Ray for something after `ray.shutdown` ends the whole process, in silence.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        deadline = time.monotonic() + _THREADS_END_S
        for thread in set(threading.enumerate()) - before:
            if thread.name not in _ENDLESS_THREADS:
                thread.join(max(0.0, deadline - time.monotonic()))


def _root_cause(error: BaseException) -> str:
    """The line of a remote traceback that names the error, without Ray's path to it or advice."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [type(error).__name__])[-1]
