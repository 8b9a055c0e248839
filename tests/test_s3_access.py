"""How S3 is reached: signed as botocore signs, by the environment that every AWS program reads."""

from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import AWS

from pipeline.stores import s3_access
from pipeline.stores.bucket_store import BucketStore
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.s3_access import Credentials, s3_bucket, sign


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    prefix=st.none() | st.text("a é+&=/%", max_size=5),
    token=st.none() | st.text("abc/+=", min_size=1),
    base=st.sampled_from(["https://b.s3.eu-west-3.amazonaws.com", "http://127.0.0.1:5000/b"]),
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
)
def test_requests_are_signed_as_botocore_signs_them(
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    prefix: str | None,
    token: str | None,
    base: str,
    method: str,
) -> None:
    # Else botocore decides by the scheme and the headers whether it signs what is sent.
    signs_content = lambda auth, request: request.method != "PUT"  # noqa: E731
    monkeypatch.setattr(S3SigV4Auth, "_should_sha256_sign_payload", signs_content)
    url = BucketStore(base, lambda *_: {}).resource(key).url
    if prefix is not None:
        url = f"{base}/?prefix={quote(prefix, safe='-_.~')}&list-type=2"
    credentials = Credentials("AKIA", "a+secret/", token)
    request = AWSRequest(method, url)
    botocores = BotocoreCredentials(*credentials)
    S3SigV4Auth(botocores, "s3", "eu-west-3").add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    signed = sign(method, url, credentials, "eu-west-3", now)
    assert signed["Authorization"] == request.headers["Authorization"]
    for name, value in signed.items():
        assert name in ("host", "Authorization") or request.headers[name] == value


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """One that says nothing of AWS; what is found in it is forgotten after the test."""
    for name in (*AWS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(
        s3_access, "_look_up_credentials", s3_access._look_up_credentials.__wrapped__
    )
    return monkeypatch


def test_a_stores_endpoint_and_region_come_from_the_environment(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "https://minio:9000/")
    environment.setenv("AWS_ACCESS_KEY_ID", "id")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    base, signed = s3_bucket("photos")
    assert base == "https://minio:9000/photos"
    assert "/us-east-1/s3/aws4_request" in signed("GET", f"{base}/a")["Authorization"]
    environment.setenv("AWS_ENDPOINT_URL_S3", "http://ceph")
    environment.setenv("AWS_DEFAULT_REGION", "north")
    environment.setenv("AWS_REGION", "south")
    base, signed = s3_bucket("photos")
    assert base == "http://ceph/photos"
    assert "/south/s3/aws4_request" in signed("GET", f"{base}/a")["Authorization"]


def test_an_endpoint_that_is_no_url_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(SourceError, match=r"'127.0.0.1:9000': write http:// or https:// before"):
        s3_bucket("b")


def test_amazons_own_buckets_stand_where_their_region_is(environment: pytest.MonkeyPatch) -> None:
    environment.setattr("pyarrow.fs.resolve_s3_region", lambda bucket: f"{bucket[:2]}-west-1")
    assert s3_bucket("euros")[0] == "https://euros.s3.eu-west-1.amazonaws.com"
    assert s3_bucket("us.dots")[0] == "https://s3.us-west-1.amazonaws.com/us.dots"


def test_without_credentials_requests_go_unsigned(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://minio")
    base, signed = s3_bucket("public")
    assert signed("GET", f"{base}/a") == {}


def test_a_profile_that_is_not_there_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://minio")
    environment.setenv("AWS_PROFILE", "nobody")
    base, signed = s3_bucket("photos")
    with pytest.raises(AccessError, match=r"no AWS credentials: .*nobody"):
        signed("GET", f"{base}/a")


def test_credentials_of_a_profile(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[work]\naws_access_key_id = AKWORK\naws_secret_access_key = s\naws_session_token = t\n"
    )
    environment.setenv("AWS_ENDPOINT_URL", "http://minio")
    environment.setenv("AWS_PROFILE", "work")
    base, signed = s3_bucket("photos")
    headers = signed("GET", f"{base}/a")
    assert "Credential=AKWORK/" in headers["Authorization"]
    assert headers["x-amz-security-token"] == "t"


def test_without_botocore_the_way_out_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(s3_access, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs botocore.*pip install 'afd-label\[s3\]'"):
        s3_bucket("photos")
