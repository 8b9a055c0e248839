"""Access to S3: endpoint, region, credentials, and the signature of requests.

All of it comes from the environment: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for a store that is
not Amazon's, AWS_REGION for its region, and credentials wherever botocore finds them (variables, a
profile, the role of the machine or the pod). Without credentials, requests are not signed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow.fs

from pipeline.error_text import one_line
from pipeline.stores.errors import AccessError, SourceError, TransientStoreError
from pipeline.stores.http_transfer import Sign
from pipeline.stores.locations import is_web

_DEFAULT_REGION = "us-east-1"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_LOCK = threading.Lock()


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None = None


def s3_bucket(bucket: str) -> tuple[str, Sign]:
    """(base URL of the bucket's objects, function that signs requests).

    Raises SourceError when botocore is not installed or the endpoint is not a URL, and
    TransientStoreError when the bucket's region cannot be found.
    """
    if find_spec("botocore") is None:
        raise SourceError(
            "s3:// needs botocore, which is not installed: pip install 'afd-label[s3]'"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        if not is_web(endpoint):
            raise SourceError(
                f"AWS_ENDPOINT_URL is {endpoint!r}: write http:// or https:// before the host"
            )
        base = f"{endpoint.rstrip('/')}/{bucket}"
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        region = region or _DEFAULT_REGION
    else:
        region = _region_of(bucket)
        base = f"https://{bucket}.s3.{region}.amazonaws.com"
        if "." in bucket:  # the wildcard certificate does not cover such a host
            base = f"https://s3.{region}.amazonaws.com/{bucket}"

    def signed(method: str, url: str) -> dict[str, str]:
        credentials = _credentials()
        if credentials is None:
            return {}
        return sign(method, url, credentials, region, datetime.now(UTC))

    return base, signed


def _region_of(bucket: str) -> str:
    try:
        return pyarrow.fs.resolve_s3_region(bucket)
    except OSError as error:
        raise TransientStoreError(
            f"the region of the bucket {bucket!r} cannot be found ({one_line(error)}): set"
            " AWS_ENDPOINT_URL=https://s3.REGION.amazonaws.com, and AWS_REGION"
        ) from None


def _credentials() -> Credentials | None:
    """The current credentials; botocore renews them before they expire."""
    from botocore.exceptions import BotoCoreError

    try:
        found = _botocore_credentials()
        return None if found is None else Credentials(*found.get_frozen_credentials()[:3])
    except BotoCoreError as error:
        raise AccessError(f"no AWS credentials: {one_line(error)}") from None


def _botocore_credentials() -> Any:
    with _LOCK:  # otherwise every thread would query the metadata service at once
        return _look_up_credentials()


@cache
def _look_up_credentials() -> Any:
    import botocore.session

    return botocore.session.get_session().get_credentials()


def sign(
    method: str, url: str, credentials: Credentials, region: str, now: datetime
) -> dict[str, str]:
    """The headers of a request signed with AWS Signature Version 4, valid for 15 minutes.

    The body of a PUT is not signed; it has its own checksum.
    """
    parts = urlsplit(url)
    content = "UNSIGNED-PAYLOAD" if method == "PUT" else _EMPTY_SHA256
    headers = {
        "host": parts.netloc,
        "x-amz-content-sha256": content,
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
    }
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(headers)  # sorted as written
    request = "\n".join(
        (
            method,
            parts.path or "/",
            "&".join(sorted(parts.query.split("&"))),
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            names,
            content,
        )
    )
    day = headers["x-amz-date"][:8]
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode("ascii")).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
    signature = _hmac(_signing_key(credentials.secret_key, day, region), text).hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},"
        f" SignedHeaders={names}, Signature={signature}"
    )
    return headers


@lru_cache(maxsize=8)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8"), "sha256")
