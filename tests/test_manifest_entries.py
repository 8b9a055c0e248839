"""Signed entries are looked up in their manifest; where it cannot be read, no image is blamed."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import JPEG, reading
from servers import WebServer

from pipeline.inputs.manifest_entries import clear_caches
from pipeline.reading.reading_tasks import StoreDownError
from pipeline.records import Status
from pipeline.sources import list_images
from pipeline.stores.errors import AccessError


@pytest.mark.usefixtures("persistent")
def test_signatures_that_have_expired_fail_the_shard(tmp_path: Path) -> None:
    """The manifest may be rewritten with fresh ones; final rows would not be read again."""
    web = WebServer({f"/{row}.jpg": JPEG for row in range(8)})
    with web.running():
        manifest = tmp_path / "signed.txt"
        manifest.write_text("".join(f"{web.url}/{row}.jpg?sig=s\n" for row in range(8)))
        refs = list(list_images(str(manifest)))
        web.faults = {"jpg": ["403:AccessDenied"] * 8}
        with pytest.raises(StoreDownError, match="8 images in a row, the last: HTTP 403 Access"):
            list(reading(refs))
        assert {image.status for image in reading(refs)} == {Status.OK}


@pytest.mark.usefixtures("persistent")
@pytest.mark.parametrize("name", ["signed.txt", "signed.csv", "signed.parquet"])
@pytest.mark.parametrize("place", ["disk", "web"])
def test_a_manifest_of_signatures_that_cannot_be_read_fails_the_shard(
    tmp_path: Path, place: str, name: str
) -> None:
    """Moved, or not on this node: that says nothing about the images."""
    web = WebServer({f"/{row}.jpg": JPEG for row in range(2)})
    with web.running():
        entries = [f"{web.url}/{row}.jpg?sig=s" for row in range(2)]
        if name.endswith("parquet"):
            pq.write_table(pa.table({"path": entries}), tmp_path / name)
        else:
            (tmp_path / name).write_text("\n".join(["path", *entries][name.endswith("txt") :]))
        content = web.files[f"/{name}"] = (tmp_path / name).read_bytes()
        manifest = str(tmp_path / name) if place == "disk" else f"{web.url}/{name}"
        refs = list(list_images(manifest))
        assert {image.status for image in reading(refs)} == {Status.OK}
        for damaged in (content[:-40], b"", None):
            clear_caches()
            if damaged is None:
                (tmp_path / name).unlink()
                del web.files[f"/{name}"]
            else:
                (tmp_path / name).write_bytes(damaged)
                web.files[f"/{name}"] = damaged
            with pytest.raises(AccessError, match=re.escape(f"manifest {manifest!r}")) as caught:
                list(reading(refs[1:]))
            assert "sig=" not in str(caught.value)


@pytest.mark.usefixtures("persistent")
def test_a_manifest_whose_server_is_down_is_not_waited_for_once_per_image() -> None:
    web = WebServer({"/a.jpg": JPEG})
    with web.running():
        web.files["/list"] = f"{web.url}/a.jpg?sig=s\n".encode() * 200
        refs = list(list_images(f"{web.url}/list"))
        clear_caches()
        web.requests.clear()
        web.faults, web.delay_s = {"list": ["503:"] * 10_000}, 0.04
        with pytest.raises(AccessError, match=r"cannot read the manifest .*HTTP 503"):
            list(reading(refs, max_images=200))
        assert len(web.requests) < 40  # four attempts for all threads; some may start later
        web.faults, web.delay_s = {}, 0.0
        assert {image.status for image in reading(refs[:20])} == {Status.OK}
