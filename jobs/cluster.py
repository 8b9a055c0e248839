"""Starts or joins Ray. No other module starts it."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psutil
import ray
from ray.job_config import JobConfig

from jobs.cluster_address import RAY_CLIENT, check_address, resolved
from jobs.exits import SAME_COMMAND_CONTINUES
from jobs.machine import num_cores
from jobs.pool import ClusterError, Node
from jobs.private_cluster import (
    OTHER_FOLDER,
    check_temporary_folder,
    is_of_temporary_folder,
    own_token,
)
from jobs.watchdog import reported_if_killed
from pipeline.error_text import one_line

_START_ATTEMPTS = 3
_DEFAULT_LOGS = "/tmp/ray/session_latest/logs"
_LOCAL_OBJECT_STORE_BYTES = 256 * 1024**2  # enough: only shard numbers and counts go through it

_KILLED = (
    "afd: the process was ended while it used Ray (--address {address}): by Ray, for example"
    " because the cluster's head node was lost, or by the system, for example because memory ran"
    " out" + SAME_COMMAND_CONTINUES
)

# Ray says only that it failed to connect, or "connection timeout".
_TOKEN_HINT = (
    " (if the cluster requires a token: RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or"
    " ~/.ray/auth_token)"
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
    num_cpus: CPUs of a private cluster; None: those that this process may use.
    Raises ClusterError when there is no cluster at the address; MistakeError when the process uses
    Ray already.
    """
    check_address(address)  # before anything is to be undone: ray.shutdown would end others' work
    address = resolved(address)
    # Ray's notices (about coming changes to CUDA_VISIBLE_DEVICES, about where it stores an actor's
    # arguments) would break up the progress line.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    private = address == "local"
    if private:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to nobody
    token = own_token() if private else nullcontext()
    with token, reported_if_killed(_KILLED.format(address=address)):
        try:
            with _own_sigterm_handler():
                if private:
                    _start(num_cpus or num_cores())  # Ray's own count knows no affinity
                else:
                    _join(address)
            yield
        finally:
            ray.shutdown()


def _job_config() -> JobConfig:
    """Ray's default, except that workers do not import modules from the current folder.

    Ray would put it first in their path: a collection that is labelled where it lies could run
    code, or hide this package behind a folder with the name of one of its own.
    """
    config = JobConfig()
    config._py_driver_sys_path = _DriversPath()
    return config


class _DriversPath(list[str]):
    """Takes from Ray only folders that this process itself imports from, as under `python -m`."""

    def extend(self, folders: Iterable[str]) -> None:
        own = set(map(os.path.abspath, sys.path))
        super().extend(folder for folder in folders if folder in own)


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Undo that `ray.init` installs its own handler of SIGTERM, which raises SystemExit."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        if callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start(num_cpus: int) -> None:
    """Start a private cluster; again where a busy machine has missed Ray's time-outs.

    Raises ClusterError when it fails.
    """
    check_temporary_folder()
    for attempt in range(_START_ATTEMPTS):
        children = set(psutil.Process().children())
        try:
            _init(
                address="local",
                job_config=_job_config(),
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            )
        except Exception as error:  # Ray raises plain Exception and RuntimeError here
            _kill(set(psutil.Process().children()) - children)
            is_folders = is_of_temporary_folder(error)
            if is_folders or attempt + 1 == _START_ATTEMPTS:
                way_out = OTHER_FOLDER if is_folders else "; try again"
                raise ClusterError(f"Ray did not start: {root_cause(error)}{way_out}") from error
        else:
            return


def _join(address: str) -> None:
    """Connect to a running cluster. Raises ClusterError when it fails."""
    # Ray Client's server has a current folder of its own.
    config = {} if address.startswith(RAY_CLIENT) else {"job_config": _job_config()}
    try:
        _init(address=address, **config)
    except Exception as error:  # Ray raises plain Exception and RuntimeError here
        if address == "auto" and isinstance(error, ConnectionError):
            raise ClusterError(
                f"no Ray cluster at {address!r}: start one with `ray start --head`, or use"
                " --address local"
            ) from error
        reason = one_line(error)  # two lines when Ray's versions differ
        may_be_token = "connect" in reason.lower() and "RAY_AUTH_MODE" not in os.environ
        hint = _TOKEN_HINT if may_be_token else ""
        raise ClusterError(f"cannot join the Ray cluster at {address!r}: {reason}{hint}") from error


def _init(**options: Any) -> None:
    """`ray.init` without its output."""
    # Ray prints what it reports of lost processes, a node's last log lines included, to stdout;
    # `log_to_driver` is for what workers print.
    ray._private.worker._worker_logs_enabled = False
    with _silenced_stderr():  # Ray prints a notice about the log level
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


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


def free() -> list[tuple[float, float]]:
    """The unused CPUs and GPUs of each node of the connected cluster.

    Their sums, as of one node, where Ray tells no more: through Ray Client.
    """
    try:
        resources = list(ray._private.state.available_resources_per_node().values())
    except (AttributeError, ray.exceptions.RaySystemError):  # no part of Ray's public interface
        resources = [ray.available_resources()]
    return [(r.get("CPU", 0.0), r.get("GPU", 0.0)) for r in resources]


def logs_folder() -> str:
    """Where each node of the connected cluster keeps Ray's logs; through Ray Client, a guess."""
    with suppress(AttributeError):  # no part of Ray's public interface
        node: Any = ray._private.worker._global_node
        return os.path.join(node.get_session_dir_path(), "logs")
    return _DEFAULT_LOGS


def root_cause(error: BaseException) -> str:
    """The line of a remote traceback that names the error, without Ray's own frames and advice."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [type(error).__name__])[-1]
