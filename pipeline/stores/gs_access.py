"""Access to Google Cloud Storage, through its S3-compatible XML interface with an access token.

Credentials are Google's application default credentials (a variable, gcloud's login, the machine's
role); without them, requests are anonymous, which public buckets allow. STORAGE_EMULATOR_HOST works
as in Google's own libraries.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from importlib.util import find_spec
from typing import Any

from pipeline.error_text import one_line
from pipeline.stores.errors import AccessError, SourceError
from pipeline.stores.http_transfer import Sign

_ENDPOINT = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_LOCK = threading.Lock()


def gs_bucket(bucket: str) -> tuple[str, Sign]:
    """(base URL of the bucket's objects, function that authenticates requests).

    Raises SourceError when google-auth is not installed.
    """
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        endpoint = emulator if "://" in emulator else f"http://{emulator}"
        return f"{endpoint.rstrip('/')}/{bucket}", lambda method, url: {}
    if find_spec("google") is None or find_spec("google.auth") is None:
        raise SourceError(
            "gs:// needs google-auth, which is not installed: pip install 'afd-label[gs]'"
        )
    return f"{_ENDPOINT}/{bucket}", lambda method, url: _token_header()


def _token_header() -> dict[str, str]:
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        with _LOCK:  # otherwise every thread would renew the token at once
            credentials = _credentials()
            if credentials is None:
                return {}
            if not credentials.valid:
                credentials.refresh(Request())
    except GoogleAuthError as error:
        raise AccessError(f"no Google credentials: {one_line(error)}") from None
    return {"Authorization": f"Bearer {credentials.token}"}


@cache
def _credentials() -> Any:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except DefaultCredentialsError:
        return None
