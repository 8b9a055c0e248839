"""What an HTTP status stands for that is no success: another attempt, or an error in words."""

from __future__ import annotations

import re
from email.message import Message

from pipeline.stores.attempts import (
    AccessError,
    ArchivedError,
    AttemptFailedError,
    MissingError,
    ReadError,
)

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")
_REGION = re.compile(rb"<Region>([\w-]{1,64})</Region>")
# S3's names for what passes, whatever the status that comes with it.
_RETRIED_CODES = (
    *("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"),
    *("BadDigest", "IncompleteBody", "OperationAborted"),
)
# ... and for what every request would fail of, with what to do about it.
_CREDENTIALS = "the credentials in the environment are not accepted"
_UNSIGNED = "there are no credentials in the environment"
_ELSEWHERE = (
    "the bucket is in another region{}: set AWS_REGION, or the AWS_ENDPOINT_URL of that region"
)
_WAYS_OUT = {
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "ExpiredToken": "the credentials in the environment have expired",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": _ELSEWHERE,
    "RequestTimeTooSkewed": "set the clock of this machine, which differs from the store's",
    "SignatureDoesNotMatch": _CREDENTIALS,
    "TokenRefreshRequired": _CREDENTIALS,
}


def refusal_of(
    status: int, reason: str, headers: Message, body: bytes, *, of_store: bool, signed: bool
) -> Exception:
    """The error to raise.

    reason: the words of the status line. of_store: see `Resource.kind`. signed: whether
    credentials went with the request.
    """
    found = _CODE.search(body)
    code = found[1].decode("ascii") if found else reason
    said = f"HTTP {status} {code}".rstrip()
    if status in _RETRIED or code in _RETRIED_CODES:
        after = headers.get("Retry-After") or ""
        return AttemptFailedError(said, float(after) if after.isdigit() else 0.0)
    way_out = _WAYS_OUT.get(code)
    if way_out is None and status == 401 and of_store:
        way_out = _CREDENTIALS if signed else _UNSIGNED
    if way_out is not None:
        return AccessError(f"{said}: {way_out.format(_region_of(headers, body))}")
    if code == "InvalidObjectState":
        return ArchivedError(f"{said}: it is archived, and has to be restored first")
    if status == 403 and of_store and not signed:
        said = f"{said}: {_UNSIGNED}"
    return MissingError(said) if status in (404, 410) else ReadError(said)


def _region_of(headers: Message, body: bytes) -> str:
    """The region that the store names, for people."""
    found = _REGION.search(body)
    name = headers.get("x-amz-bucket-region") or (found[1].decode("ascii") if found else "")
    return f", {name}" if re.fullmatch(r"[\w-]{1,64}", name) else ""
