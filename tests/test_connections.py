"""Connections kept by host, never across a fork; TLS, proxies and passwords as the web has them."""

import datetime
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import WebServer

from pipeline.reading import read_ahead
from pipeline.stores import connections
from pipeline.stores.connections import (
    Address,
    ConnectionPool,
    address_of,
    basic_authorization,
    connect,
)
from pipeline.stores.errors import StoreError
from pipeline.stores.http_transfer import Resource, get

DATA = b"over TLS"
pytestmark = pytest.mark.usefixtures("impatient")


def test_addresses() -> None:
    assert address_of("https://h/a?b#c") == Address("https", "h", 443, "/a?b")
    assert address_of("http://h:81") == Address("http", "h", 81, "/")
    assert address_of("http://me:pw@h//a/../%20é ü?x= %") == Address(
        "http", "h", 80, "//a/../%20%C3%A9%20%C3%BC?x=%20%"
    )
    for url in ("https:///a", "nothing", "http://h:x/"):
        with pytest.raises(ValueError, match=r"names no host|[Pp]ort"):
            address_of(url)


def test_a_password_in_a_url() -> None:
    assert basic_authorization("https://h/@a") == {}
    header = {"Authorization": "Basic bWU6cEB3"}  # me:p@w
    assert basic_authorization("https://me:p%40w@h/a") == header


def test_idle_connections_leave_room_for_other_files_beside_the_readers_of_two_shards() -> None:
    assert connections._MAX_IDLE + 2 * read_ahead._REMOTE_READS <= 1024 - 200


def test_idle_connections_are_kept_by_host_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_IDLE", 3)
    web = WebServer({})
    with web.running():
        address = address_of(web.url)
        opened = [connect(address, connect_timeout_s=1, read_timeout_s=1) for _ in range(5)]
        other = address._replace(host="elsewhere")
        kept = ConnectionPool()
        kept.release(other, opened[0])
        for connection in opened[1:]:
            kept.release(address, connection)
        assert [connection.sock is None for connection in opened] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert kept.acquire(other) is None
        assert [kept.acquire(address) for _ in range(4)] == [opened[4], opened[3], opened[2], None]
        for connection in opened:
            connection.close()


def test_a_forked_process_begins_without_connections() -> None:
    web = WebServer({})
    with web.running():
        address = address_of(web.url)
        kept, connection = ConnectionPool(), connect(address, connect_timeout_s=1, read_timeout_s=1)
        kept.release(address, connection)
        child = os.fork()
        if child == 0:
            os._exit(0 if kept.acquire(address) is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert kept.acquire(address) is connection
        connection.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for 127.0.0.1, which nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[WebServer]:
    web = WebServer({"/a.jpg": DATA})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    web.url = web.url.replace("http://", "https://")
    with web.running():
        yield web


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connections._tls.cache_clear()
    yield
    connections._tls.cache_clear()


def a_jpg(web: WebServer) -> Resource:
    return Resource(f"{web.url}/a.jpg", lambda *_: {}, "web")


@pytest.mark.usefixtures("trusted")
def test_a_trusted_server(secure: WebServer) -> None:
    assert get(a_jpg(secure)).data == DATA


def test_a_server_that_nobody_vouches_for_is_refused_at_once(secure: WebServer) -> None:
    message = r"certificate of 127\.0\.0\.1:\d+ is not trusted \(self-signed.*SSL_CERT_FILE"
    with pytest.raises(StoreError, match=message) as caught:
        get(a_jpg(secure))
    assert "tried" not in str(caught.value)
    assert not secure.requests


def test_what_awss_programs_trust_is_trusted_too(
    secure: WebServer, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    connections._tls.cache_clear()
    with pytest.raises(StoreError, match=r"AWS_CA_BUNDLE is '.*gone.pem': No such file"):
        get(a_jpg(secure))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    assert get(a_jpg(secure)).data == DATA
    connections._tls.cache_clear()


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """(a proxy's address, what it was asked for): it joins two sockets, as CONNECT says."""
    asked: list[bytes] = []

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        asked.append(head)
        host, port = head.split()[1].decode().split(":")
        upstream = socket.create_connection((host, int(port)))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for source, target in ((client, upstream), (upstream, client)):
            threading.Thread(target=copy, args=(source, target), daemon=True).start()

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def accept() -> None:
        while True:
            try:
                serve(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked


@pytest.mark.usefixtures("trusted")
def test_https_goes_through_the_environments_proxy(
    secure: WebServer, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    monkeypatch.setenv("https_proxy", f"http://me:pw@{address}")
    monkeypatch.setenv("no_proxy", "elsewhere")
    assert get(a_jpg(secure)).data == DATA
    (request,) = asked
    assert request.startswith(b"CONNECT " + secure.url.removeprefix("https://").encode())
    assert b"Proxy-Authorization: Basic bWU6cHc=" in request
    assert "Authorization" not in secure.requests[0].headers
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pipeline.stores.http_transfer._CONNECTIONS", ConnectionPool())
    assert get(a_jpg(secure)).data == DATA
    assert len(asked) == 1
