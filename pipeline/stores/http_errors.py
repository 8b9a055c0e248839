"""The error that an HTTP response stands for, and what to do about it."""

from __future__ import annotations

import re
from email.message import Message

from pipeline.stores.errors import AccessError, ColdStorageError, MissingError, StoreError
from pipeline.stores.retries import RetryableError

_RETRIED = (408, 425, 429)  # and what a server cannot do now: statuses from 500 on
_REFUSED_FOR_GOOD = (501, 505)  # the request as such
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")
_REGION = re.compile(rb"<Region>([\w-]{1,64})</Region>")
# S3's error codes of passing troubles, whatever HTTP status comes with them.
_RETRIED_CODES = (
    *("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"),
    *("BadDigest", "IncompleteBody", "OperationAborted"),
)
_MAX_REASON = 64  # the words are the server's own; S3's codes are no longer
_NOT_ACCEPTED = "the credentials in the environment are not accepted"
_UNSIGNED = "there are no credentials in the environment"
_OTHER_REGION = (
    "the bucket is in another region{}: set AWS_REGION, or the AWS_ENDPOINT_URL of that region"
)
# S3's error codes that every other request would get too, and what to do about them.
_ACCESS_CODES = {
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "ExpiredToken": "the credentials in the environment have expired",
    "InvalidAccessKeyId": _NOT_ACCEPTED,
    "InvalidToken": _NOT_ACCEPTED,
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": _OTHER_REGION,
    "RequestTimeTooSkewed": "set the clock of this machine, which differs from the store's",
    "SignatureDoesNotMatch": _NOT_ACCEPTED,
    "TokenRefreshRequired": _NOT_ACCEPTED,
}


def error_of_response(
    status: int, reason: str, headers: Message, body: bytes, *, of_store: bool, signed: bool
) -> Exception:
    """The error to raise: RetryableError, AccessError, or a StoreError.

    reason: the words of the status line. of_store: whether the resource's kind is "store".
    signed: whether the request carried credentials.
    """
    found = _CODE.search(body)
    code = found[1].decode("ascii") if found else reason[:_MAX_REASON]
    message = f"HTTP {status} {code}".rstrip()
    if _passes(status) or code in _RETRIED_CODES:
        after = headers.get("Retry-After") or ""
        return RetryableError(message, float(after) if after.isdigit() else 0.0)
    way_out = _ACCESS_CODES.get(code)
    if way_out is None and status == 401 and of_store:
        way_out = _NOT_ACCEPTED if signed else _UNSIGNED
    if way_out is not None:
        return AccessError(f"{message}: {way_out.format(_region_of(headers, body))}")
    if code == "InvalidObjectState":
        return ColdStorageError(f"{message}: it is in cold storage, and must be restored first")
    if status == 403 and of_store and not signed:
        message = f"{message}: {_UNSIGNED}"
    return MissingError(message) if status in (404, 410) else StoreError(message)


def _passes(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _RETRIED or (status >= 500 and status not in _REFUSED_FOR_GOOD)


def _region_of(headers: Message, body: bytes) -> str:
    """The region that the store names, after a comma; empty when it names none."""
    found = _REGION.search(body)
    name = headers.get("x-amz-bucket-region") or (found[1].decode("ascii") if found else "")
    return f", {name}" if re.fullmatch(r"[\w-]{1,64}", name) else ""
