"""Whether a cluster can be used from here at an address; Ray itself would try for minutes.

Does not import Ray, so that a job can ask before anything else.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress

from jobs.pool import ClusterError, MistakeError
from pipeline.error_text import reason_of

_RAY_ADDRESS = "RAY_ADDRESS"
_OF_A_SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # by Ray, in the process that it starts for one
_HOST_AND_PORT = re.compile(r"(\[[\da-fA-F:.]+\]|[^/:\s]+):(\d+)")
_PROBE_TIMEOUT_S = 10.0
RAY_CLIENT = "ray://"
_RAY_CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"
# The start of a gRPC connection, which Ray accepts. A web server answers in HTTP/1, or with a page.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def resolved(address: str) -> str:
    """The address; for "auto", what RAY_ADDRESS names, as Ray itself takes it."""
    return (os.environ.get(_RAY_ADDRESS) if address == "auto" else "") or address


def check_address(address: str) -> None:
    """Raise ClusterError where there is no cluster, MistakeError where this process may use none.

    address: as `--address`. What is found on this machine, by "local" and "auto", is left to Ray,
        which checks it quickly.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():  # it is connected once; the end would be for all
        raise MistakeError(
            "this process uses Ray already: use workers=0 in it, or, outside of Ray's tasks and"
            " actors, call ray.shutdown() first"
        )
    place = resolved(address)
    if place == "local" and _OF_A_SUBMITTED_JOB in os.environ:
        raise MistakeError(
            "this is a job of a Ray cluster: use --address auto to run on the cluster, or"
            " --workers 0 to run in this process alone"
        )
    if place not in ("local", "auto"):
        _check_place(place, _RAY_ADDRESS if place != address else "--address")


def _check_place(address: str, source: str) -> None:
    """source: what gives the address, for the messages."""
    named = repr(address) if source == "--address" else f"{source} {address!r}"
    place = address.removeprefix(RAY_CLIENT)
    found = _HOST_AND_PORT.fullmatch(place)
    if found is None:
        raise ClusterError(
            f"{source} {address!r} is not the address of a Ray cluster: use local, auto, HOST:6379"
            " or ray://HOST:10001"
        )
    try:
        answer = _first_bytes((found[1].strip("[]"), int(found[2])))
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        raise ClusterError(
            f"no Ray cluster at {named} ({reason_of(error)}): start one with"
            " `ray start --head`, or use --address local"
        ) from error
    if answer.startswith((b"HTTP/1", b"<")):
        raise ClusterError(
            f"a web server answers at {named}, perhaps Ray's dashboard, not a Ray cluster: use the"
            " cluster's HOST:6379 or ray://HOST:10001"
        )
    if address.startswith(RAY_CLIENT) and not _is_client_server(place):
        raise ClusterError(
            f"no Ray Client at {named}, but perhaps a cluster: use its port 10001"
            f" (--ray-client-server-port), or --address {place}"
        )


def _is_client_server(host_and_port: str) -> bool:
    """False when one of Ray's other servers answers, which do not know Ray Client's method."""
    import grpc  # comes with ray[default]; only ray:// needs it

    with grpc.insecure_channel(host_and_port) as channel:
        try:
            channel.unary_unary(_RAY_CLIENT_METHOD)(b"", timeout=_PROBE_TIMEOUT_S)
        except grpc.RpcError as error:
            known: bool = error.code() is not grpc.StatusCode.UNIMPLEMENTED
            return known
    return True


def _first_bytes(host_and_port: tuple[str, int]) -> bytes:
    """What a server answers to a gRPC client; b"" for none. Raises OSError when none listens."""
    with socket.create_connection(host_and_port, _PROBE_TIMEOUT_S) as connection, suppress(OSError):
        connection.sendall(_HTTP2_PREFACE)
        return connection.recv(16)
    return b""
