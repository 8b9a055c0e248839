"""Locations as text: their scheme, parts, patterns and credentials.

Pure functions, without access to a disk or a network.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin

from pipeline.stores.errors import SourceError

REMOTE_SCHEMES = ("s3", "gs", "hf", "https", "http")
_REMOTE = tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES)
_SCHEME = re.compile(r"(?!file:)([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE_WITHOUT_ROOT = re.compile(r"file:/(?!//)")  # Spark's file:/a, or with a host: file://h/a
# The first comma, so that a long line is searched once. int() refuses 4,300 digits.
_BRACES = re.compile(r"\{(-?\d{1,99}\.\.-?\d{1,99}|[^{},]*,[^{}]*)\}")
_MAX_EXPANDED = 100_000_000
# Query parameters that grant access: signatures, tokens and keys of object stores, CDNs and web
# services. The parameters beside them (dates, expiry) are no secret; nor are those that may be all
# that tells two images apart, such as "key", "code" and "id".
_SECRET_PARAMETER = re.compile(
    r".*(signature|credentials?|token|secret|passw(or)?d|authorization)_*"
    r"|(.*[-_.])?(sig|auth|pwd|jwt|hmac|ak)"
    r"|.*(api|app|access|account|auth|private|secret|subscription)[-_]?key([-_]?id)?"
    r"|key-pair-id|googleaccessid|policy|hdn(ts|tl|ea)|sign|hm",
    re.IGNORECASE,
)
# Up to the "@" before the host. A password may hold slashes; but in "h:80/@me", 80 is a port.
_USER = re.compile(r"[^/]*@|[^/\[:]*:(?!\d*[/?#]).*@", re.DOTALL)


def is_remote(location: str) -> bool:
    """Whether a location is a URI of a remote store, rather than a path or a file:// URI.

    Raises SourceError for a scheme that is not supported, and for a file:// URI with a host.
    """
    if location.startswith("/"):
        return False
    if location.startswith(_REMOTE):
        return True
    if found := _SCHEME.match(location):
        raise SourceError(
            f"cannot read {without_credentials(location)!r}: {found[0]} is not supported;"
            f" give a path, or one of {', '.join(_REMOTE)}"
        )
    if _FILE_WITHOUT_ROOT.match(location):
        raise SourceError(f"cannot read {location!r}: write the absolute path, or file:///…")
    return False


def scheme_of(location: str) -> str:
    return location.partition("://")[0]


def local_path(location: str) -> str:
    """A file:// URI as a path; a path as it is."""
    if location.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(location.removeprefix("file://")))
    return location


def uri_of(path: str) -> str:
    """A path as valid Unicode: the path, or a percent-encoded file:// URI if it is not UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def resolve_entry(folder: str, entry: str) -> str:
    """An entry of a manifest as an absolute path or a remote location.

    folder: the manifest's, with a final slash if it is remote.
    """
    if entry.startswith("/") and not is_web(folder):
        return entry
    if is_remote(entry):
        return entry
    if not is_remote(folder):
        return os.path.join(folder, local_path(entry))
    if is_web(folder):
        return urljoin(folder, entry)
    if entry.startswith("file://"):
        return local_path(entry)
    scheme, _, key = folder.partition("://")
    bucket, _, below = key.partition("/")
    if {".", ".."}.isdisjoint(entry.split("/")):
        return folder + entry
    resolved = posixpath.normpath(f"/{below}{entry}").lstrip("/")  # never above the bucket
    return f"{scheme}://{bucket}/{resolved}" + ("/" if entry.endswith("/") else "")


def folder_of(location: str) -> str:
    """The folder of a file, with a final slash if it is remote."""
    if not is_remote(location):
        return os.path.dirname(location)
    return without_query(location).rpartition("/")[0] + "/"


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand `{000..010}` and `{a,b}` as a shell does; the last braces vary fastest.

    Numbers are padded with zeros to the length of the longer end if one of the ends has a
    leading zero. Raises SourceError for more files than a collection can have.
    """
    text, *rest = _BRACES.split(pattern)  # text, braces, text, braces, ..., text
    # At least two for each, which also limits how deep the iterators are nested.
    if math.prod(max(2, _num_choices(braces)) for braces in rest[::2]) > _MAX_EXPANDED:
        raise SourceError(
            f"{pattern[:200]!r} stands for more than {_MAX_EXPANDED:,} files: name those that there"
            " are, as in a manifest"
        )
    expanded = iter([text])
    for braces, text in zip(rest[::2], rest[1::2], strict=True):
        expanded = _continued(expanded, braces, text)
    return expanded


def _continued(starts: Iterator[str], braces: str, text: str) -> Iterator[str]:
    for start in starts:
        for choice in _choices(braces):
            yield f"{start}{choice}{text}"


def has_braces(pattern: str) -> bool:
    return "{" in pattern and _BRACES.search(pattern) is not None


def leading_alternatives(pattern: str) -> list[str]:
    """The alternatives of the `{a,b}` that a pattern starts with; empty if it does not."""
    found = _BRACES.match(pattern)
    return found[1].split(",") if found and "," in found[1] else []


def _num_choices(braces: str) -> int:
    if "," in braces:
        return braces.count(",") + 1
    first, last = map(int, braces.split(".."))
    return abs(last - first) + 1


def _choices(braces: str) -> Iterable[str]:
    if "," in braces:
        return braces.split(",")
    first, last = braces.split("..")
    step = 1 if int(first) <= int(last) else -1
    padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))


def without_credentials(location: str) -> str:
    """The location without user, password, signature and token; rows, plans and messages use it."""
    scheme, separator, rest = location.partition("://")
    if location.startswith("/") or not separator or not ("@" in rest or "?" in rest):
        return location
    if user := _USER.match(rest):
        rest = rest[user.end() :]
    if not is_web(location):  # a key in a bucket may hold a question mark
        return f"{scheme}://{rest}"
    address, mark, query = rest.partition("?")
    kept = "&".join(word for word in query.split("&") if not _is_secret(word.partition("=")[0]))
    if not kept and query:
        mark = ""
    return f"{scheme}://{address}{mark}{kept}"


@lru_cache(maxsize=256)  # of ten million entries, most have the same few parameters
def _is_secret(parameter: str) -> bool:
    name = unquote(parameter.removeprefix("amp;"))  # copied from HTML: "&amp;sig="
    return _SECRET_PARAMETER.fullmatch(name) is not None


def is_web(location: str) -> bool:
    return location[:8].lower().startswith(("https://", "http://"))


def without_query(location: str) -> str:
    """A web location without query and fragment, so that it ends with the file's extension."""
    if not ("?" in location or "#" in location) or not is_web(location):
        return location
    return location.partition("#")[0].partition("?")[0]


def has_credentials(location: str) -> bool:
    return without_credentials(location) != location


def refuse_credentials(location: str) -> None:
    """Raises SourceError for a location with credentials: it would be written to the output."""
    if not has_credentials(location):
        return
    if is_web(location):
        way_out = "write the whole URI into a text file and give that file instead"
    else:
        way_out = "remove the part before the @ and set the credentials in the environment"
    raise SourceError(
        f"{without_credentials(location)!r} was given with credentials, which would be recorded:"
        f" {way_out}"
    )


def literal_prefix(pattern: str) -> str:
    """The part of a glob pattern before its first special character."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob for whole keys: `*` and `?` match within a folder, `**` any number of folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(map(_glob_part, parts)), re.DOTALL)


def _glob_part(part: str) -> str:
    if part.startswith("[") and len(part) > 2:
        negated = part.startswith("[!")
        return _glob_class(part[1 + negated : -1], "^" if negated else "")
    fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return fixed.get(part) or re.escape(part)


def _glob_class(inside: str, negation: str) -> str:
    """One character, never a slash, that is in a set such as `a-cx`, or is not in it."""
    items = [
        re.escape(single) if single else f"{re.escape(first)}-{re.escape(last)}"
        for first, last, single in re.findall(r"(.)-(.)|(.)", inside, re.DOTALL)
        if first <= last
    ]
    if not items:
        return "[^/]" if negation else "(?!)"
    return f"(?!/)[{negation}{''.join(items)}]"
