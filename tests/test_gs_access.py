"""How Google Cloud Storage is reached: Google's own credentials, or none; an emulator's address."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from servers import Bucket, WebServer

from pipeline.stores import gs_access
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.gs_access import gs_bucket
from pipeline.stores.storage import list_objects, read


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """One that says nothing of Google; what is found in it is forgotten after the test."""
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    gs_access._credentials.cache_clear()
    yield monkeypatch
    gs_access._credentials.cache_clear()


def service_account(folder: Path, token_uri: str) -> str:
    """A file of credentials as the console hands them out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    content = {
        "type": "service_account",
        "client_email": "reader@example.com",
        "private_key": pem.decode(),
        "token_uri": token_uri,
    }
    path = folder / "account.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_a_token_of_the_default_credentials_is_sent_and_kept(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    web = WebServer({"/token": b'{"access_token": "t0ken", "expires_in": 3600}'})
    with web.running():
        account = service_account(tmp_path, f"{web.url}/token")
        environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", account)
        base, signed = gs_bucket("photos")
        assert base == "https://storage.googleapis.com/photos"
        for _ in range(3):
            assert signed("GET", f"{base}/a") == {"Authorization": "Bearer t0ken"}
        assert len(web.requests) == 1


def test_without_credentials_requests_are_anonymous(environment: pytest.MonkeyPatch) -> None:
    base, signed = gs_bucket("public")
    assert signed("GET", f"{base}/a") == {}


def test_credentials_that_are_refused_are_no_fault_of_the_image(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    web = WebServer({})
    with web.running():
        account = service_account(tmp_path, f"{web.url}/token")
        environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", account)
        base, signed = gs_bucket("photos")
        with pytest.raises(AccessError, match="no Google credentials: ") as caught:
            signed("GET", f"{base}/a")
        assert "\n" not in str(caught.value)


def test_without_google_auth_the_way_out_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(gs_access, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs google-auth.*pip install 'afd-label\[gs\]'"):
        gs_bucket("photos")


def test_an_emulator_is_listed_and_read(
    environment: pytest.MonkeyPatch, s3: Bucket, s3_url: str
) -> None:
    """Google's XML interface is S3's: the same server can stand for both."""
    s3.write({"sub/a b.jpg": b"1", "z.jpg": b"22"}, acl="public-read")
    for host in (s3_url, s3_url.removeprefix("http://")):
        environment.setenv("STORAGE_EMULATOR_HOST", host)
        environment.setattr("pipeline.stores.storage._buckets", {})
        found = list(list_objects(f"gs://{s3.name}/"))
        assert found == [(f"gs://{s3.name}/sub/a b.jpg", 1), (f"gs://{s3.name}/z.jpg", 2)]
        assert read(found[0][0]) == b"1"
