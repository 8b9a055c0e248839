"""Shared fixtures. Tests that use none of them do not wait for PyTorch and DALI to be imported."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster
    from servers import Bucket, Proxy

    from afd_model.backbones import Backbone
    from pipeline.decode import Decoder

# OpenMP's threads wait for each other by spinning: on a busy machine one is faster than two. Set
# before PyTorch is imported, and passed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `afd` has it, for jobs that take more threads

# Likewise passed on: `nohup` and a script's `&` would have the jobs of these tests ignore the
# signals that they are sent.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """Undo what a job does to them that a test runs in this process: processes inherit them."""
    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    yield
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def pytest_runtest_call(item: pytest.Item) -> None:
    """Have a crash say where it was: `ray.init` installs a handler whose text pytest captures."""
    faulthandler.disable()
    faulthandler.enable(item.config.stash[fault_handler_stderr_fd_key])


@pytest.fixture(scope="session")
def small_decoder() -> Decoder:
    """Whole images as 64x64 pixels, in batches of 4, two batches ahead."""
    from decoding import plain

    from pipeline.decode import DecodeOptions, Decoder

    return Decoder(plain(64, 64), DecodeOptions(batch_size=4, prefetch_batches=2))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The miniature, untrained."""
    from checkpoints import MINIATURE

    from afd_model.backbones import load_backbone

    return load_backbone(MINIATURE, "none")


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """One S3 server for all tests."""
    from servers import moto_server

    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def head(s3_url: str) -> Iterator[Cluster]:
    """A Ray cluster that is there already: joining one takes less than starting one.

    Its workers reach S3 by the environment that it was started in. It has none of the processes
    that no job asks: those that scale a cluster, and that bring its logs to the driver.
    """
    from ray.cluster_utils import Cluster
    from servers import use_s3

    needless = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    with pytest.MonkeyPatch.context() as environment:
        use_s3(s3_url, environment)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **needless})
    yield made
    # A client that asks a lost cluster for a minute ends its process without a word.
    made.global_state.disconnect()
    made.shutdown()


@pytest.fixture(scope="module")
def address(head: Cluster) -> str:
    """The cluster's."""
    return head.address


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, which this process reads by its environment as any program would."""
    from servers import Bucket, use_s3

    use_s3(s3_url, monkeypatch)
    return Bucket(s3_url)


@pytest.fixture
def proxy(s3: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The S3 server behind one that fails as told, through which this process reaches it."""
    from servers import Proxy, use_s3

    made = Proxy(s3_url)
    with made.running():
        use_s3(made.url, monkeypatch)
        yield made


@pytest.fixture
def expired(s3: Bucket, proxy: Proxy) -> str:
    """A bucket of pictures that can be listed but not read: the token expires in between."""
    from jpegs import encode, photo

    s3.write({f"{k}.jpg": encode(photo(80, 110, k)) for k in range(16)})
    proxy.faults = {r"\.jpg": ["403:ExpiredToken"] * 1000}
    return s3.url


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's, so that the same sums come out in the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["disk", "s3"])
def collection(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder with one of everything (`corpora.COLLECTION`), on disk and in a bucket."""
    from corpora import COLLECTION

    files = {f"photos/{name}": content for name, content in COLLECTION.items()}
    if request.param == "s3":
        s3: Bucket = request.getfixturevalue("s3")
        s3.write(files)
        return f"{s3.url}/photos"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return str(tmp_path / "photos")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote reads that are given up after three attempts and tenths of seconds."""
    _set_retry_policy(monkeypatch, read_timeout_s=0.4)


@pytest.fixture
def persistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts soon after each other, but time enough for a busy S3 server to answer."""
    _set_retry_policy(monkeypatch, read_timeout_s=5.0)


def _set_retry_policy(monkeypatch: pytest.MonkeyPatch, read_timeout_s: float) -> None:
    from pipeline.stores.retries import RETRY_POLICIES, RetryPolicy

    policy = RetryPolicy(
        3, 0.01, 0.02, connect_timeout_s=read_timeout_s, read_timeout_s=read_timeout_s
    )
    for kind in RETRY_POLICIES:
        monkeypatch.setitem(RETRY_POLICIES, kind, policy)
