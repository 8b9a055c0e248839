"""What locations say, and that what is recorded of them holds no credentials."""

import itertools
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stores.errors import SourceError
from pipeline.stores.locations import (
    expand_braces,
    folder_of,
    glob_regex,
    has_braces,
    is_remote,
    literal_prefix,
    refuse_credentials,
    resolve_entry,
    without_credentials,
    without_query,
)


def test_a_scheme_tells_remote_from_local() -> None:
    for location in ("s3://b/k", "gs://b/k", "hf://datasets/o/n", "https://h/x", "http://h/x"):
        assert is_remote(location)
    for location in ("/a/b", "a/b", "file:///a", "/a/http://x", "a:b", "C:/x", "./s3://x"):
        assert not is_remote(location)
    for location in ("ftp://h/x", "S3://b/k", "s3a://b/k"):
        with pytest.raises(SourceError, match=r"is not supported; give a path, or one of s3://"):
            is_remote(location)
    # As Spark writes it; and a host, as the standard allows.
    for location in ("file:/a/b.jpg", "file://localhost/a", "file://b.jpg"):
        with pytest.raises(SourceError, match="': write the absolute path, or file:///"):
            is_remote(location)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data-{000..002}.tar", ["data-000.tar", "data-001.tar", "data-002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("x{,y}", ["x", "xy"]),
        ("{0..2}{7..7}", ["07", "17", "27"]),
    ],
)
def test_braces_are_written_out_as_a_shell_does(pattern: str, expected: list[str]) -> None:
    assert has_braces(pattern)
    assert list(expand_braces(pattern)) == expected


def test_what_only_looks_like_braces_stays() -> None:
    for name in ("{}", "{a}", "a{b.jpg", "}{", "{1...3}", "{a..c}"):
        assert not has_braces(name)
        assert list(expand_braces(name)) == [name]


def test_a_large_range_is_written_out_as_it_is_used() -> None:
    tracemalloc.start()
    for pattern, expected in (("{0..9999}{0..9999}", ["00", "01"]), ("{0..9999999}", ["0", "1"])):
        assert list(itertools.islice(expand_braces(pattern), 2)) == expected
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "pattern",
    ["x{0..99999999999}.jpg", "{0..99999}{0..99999}", "{a,b}" * 2000, "{1..1}" * 2000],
    ids=["one", "two", "many", "many of one"],
)
def test_braces_that_stand_for_more_files_than_there_are_are_refused(pattern: str) -> None:
    """As a typing error has it, or a stranger's manifest: listing them would not end."""
    with pytest.raises(SourceError, match="stands for more than 100,000,000 files") as caught:
        next(expand_braces(pattern))
    assert pattern[:10] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_longest_line_is_searched_for_braces_at_once() -> None:
    n = 100_000
    for line in ("{" + "," * n, "{" * n + ",1" * n, "{1" * n, "{1.." + "1" * n, "{" * n + "," * n):
        began = time.perf_counter()
        assert not has_braces(line)
        assert list(expand_braces(line)) == [line]
        assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("folder", "entry", "expected"),
    [
        ("/lists", "a.jpg", "/lists/a.jpg"),
        ("/lists", "/a.jpg", "/a.jpg"),
        ("/lists", "file:///b%20c.jpg", "/b c.jpg"),
        ("/lists", "s3://b/k", "s3://b/k"),
        ("s3://b/lists/", "a%20b.jpg", "s3://b/lists/a%20b.jpg"),
        ("s3://b/lists/", "a//b.jpg", "s3://b/lists/a//b.jpg"),
        ("s3://b/lists/", "../a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists/", "./x/", "s3://b/lists/x/"),
        ("s3://b/lists/", "../../../a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists/", "/data/a.jpg", "/data/a.jpg"),
        ("https://h/lists/", "../a.jpg", "https://h/a.jpg"),
        ("https://h/lists/", "/a.jpg", "https://h/a.jpg"),
    ],
)
def test_entries_are_relative_to_their_manifest(folder: str, entry: str, expected: str) -> None:
    assert resolve_entry(folder, entry) == expected


def test_the_folder_and_the_name_of_a_location() -> None:
    assert folder_of("/a/b.txt") == "/a"
    assert folder_of("s3://b/a/c?.txt") == "s3://b/a/"
    assert folder_of("https://h/a/b.txt?list=x/y") == "https://h/a/"
    assert without_query("https://h/x.tar?v=1.jpg#a") == "https://h/x.tar"
    assert without_query("s3://b/x.tar?v=1.jpg") == "s3://b/x.tar?v=1.jpg"


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (f"https://me:{SECRET}@h:8080/a.jpg", "https://h:8080/a.jpg"),
        (f"https://{SECRET}@h/a.jpg?v=1", "https://h/a.jpg?v=1"),
        (f"https://h/a.jpg?v=1&sig={SECRET}&w=2", "https://h/a.jpg?v=1&w=2"),
        (f"https://h/a.jpg?X-Amz-Signature={SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?x-amz-security-token={SECRET}&Expires=9", "https://h/a.jpg?Expires=9"),
        (f"https://h/a.jpg?X-Goog-Signature={SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?AWSAccessKeyId=a{SECRET}&Signature={SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?access_token={SECRET}&id=7", "https://h/a.jpg?id=7"),
        (f"https://h/a.jpg?X%2DAmz%2DSignature={SECRET}", "https://h/a.jpg"),
        (f"HTTPS://me:{SECRET}@h/a?token={SECRET}", "HTTPS://h/a"),
        (f"http://[broken/a?api-key={SECRET}", "http://[broken/a"),
        (f"http://me:1{SECRET}/{SECRET}/@h/a", "http://h/a"),
        (f"s3://id:{SECRET}/{SECRET}@bucket/a", "s3://bucket/a"),
        (f"s3://id:{SECRET}@bucket/a?sig=1", "s3://bucket/a?sig=1"),
        (f"ftp://me:{SECRET}@h/a", "ftp://h/a"),
    ],
)
def test_what_lets_its_holder_in_is_not_recorded(location: str, expected: str) -> None:
    assert without_credentials(location) == expected
    with pytest.raises(SourceError, match="was given with credentials") as caught:
        refuse_credentials(location)
    assert SECRET not in str(caught.value)


def test_a_refused_scheme_is_named_without_credentials() -> None:
    with pytest.raises(SourceError, match="'ftp://h/a': ftp:// is not supported") as caught:
        is_remote(f"ftp://me:{SECRET}@h/a")
    assert SECRET not in str(caught.value)


# Of S3's likes in other clouds, of CDNs and of web services.
SECRET_PARAMETERS = """
    X-Tos-Signature X-Tos-Credential X-Tos-Security-Token x-cos-security-token q-signature q-ak
    x-obs-security-token AccessKeyId OSSAccessKeyId AWSAccessKeyId GoogleAccessId Key-Pair-Id Policy
    auth_key authorization hdnts hdntl hdnea __token__ bcdn_token private_token job_token dl_token
    accessToken idtoken client_secret subscription-key apikey secretKey app_key sign hm jwt ak auth
    pwd passwd password sig hub-sig hmac amp;sig amp;token
"""
PLAIN_PARAMETERS = """
    key code id v width date Expires X-Amz-Date tokens token_id signed design road_sign author keys
    authority page key_id credential_type orig policy_area ham breaks
"""


def test_parameters_that_grant_access_are_known_by_the_ends_of_their_names() -> None:
    for name in SECRET_PARAMETERS.split():
        assert without_credentials(f"https://h/a?b=1&{name}={SECRET}&c=2") == "https://h/a?b=1&c=2"
    for name in PLAIN_PARAMETERS.split():  # of two images, it may be all that tells them apart
        location = f"https://h/a?{name}=1&b=2"
        assert without_credentials(location) == location


@pytest.mark.parametrize(
    "location",
    [
        "https://h/a.jpg?",
        "http://h:80/@me/a@b.jpg",
        "http://[::1]/a@b.jpg",
        "http://[::1]:80/a@b.jpg",
        "https://h/@user/a.jpg?signed=no&tokens=3&key=a",
        "https://h/a%20b.jpg?x=%26sig%3D1#part",
        "s3://bucket/a@b?sig=1",
        "hf://datasets/o/n@main/x.parquet",
        "/data/me:you@h/a?sig=1",
        "a@b:c?sig=1",
    ],
)
def test_what_holds_no_credentials_is_recorded_as_it_is(location: str) -> None:
    assert without_credentials(location) == location
    refuse_credentials(location)


@pytest.mark.parametrize(
    ("pattern", "start", "matches", "others"),
    [
        ("s3://b/a-*.jpg", "s3://b/a-", ["s3://b/a-1.jpg"], ["s3://b/a-/1.jpg", "s3://b/a-1xjpg"]),
        ("s3://b/**/x", "s3://b/", ["s3://b/x", "s3://b/c/d/x"], ["s3://b/cx"]),
        ("s3://b/a/**", "s3://b/a/", ["s3://b/a/c/d"], ["s3://b/ab"]),
        ("s3://b/[!a-c]?", "s3://b/", ["s3://b/dd"], ["s3://b/ad", "s3://b/d/"]),
        (r"s3://b/[\]]+.x", "s3://b/", [], ["s3://b/+.x"]),
        ("s3://b/[0-9].x", "s3://b/", ["s3://b/7.x"], ["s3://b/].x", "s3://b/[.x", "s3://b/0-9.x"]),
        ("s3://b/(a|b)*", "s3://b/(a|b)", ["s3://b/(a|b)c"], ["s3://b/ac"]),
    ],
)
def test_globs_over_keys(pattern: str, start: str, matches: list[str], others: list[str]) -> None:
    assert literal_prefix(pattern) == start
    assert all(glob_regex(pattern).fullmatch(key) for key in matches)
    assert not any(glob_regex(pattern).fullmatch(key) for key in others)


@settings(deadline=None)
@given(pattern=st.text("ab*?[]!-/\\.^(", max_size=10))
def test_every_glob_is_a_regular_expression_that_keeps_its_fixed_start(pattern: str) -> None:
    assert isinstance(glob_regex(pattern), re.Pattern)
    assert pattern.startswith(literal_prefix(pattern))
