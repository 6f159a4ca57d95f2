"""Which addresses may be asked at all: no listing makes us read our own network, and none ends the run."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetching.address import checked_target, is_public, split_address
from pipelines.fetching.base import FetchError


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::",
        "fec0::1",
        "::8.8.8.8",
        "64:ff9b:1::808:808",
        "::ffff:0:8.8.8.8",
        "100::1",
        "5f00::1",
        "3fff::1",
        "2001:db8::1",
        "2001:20::1",
        "ff0e::1",
        "fe80::1%1",
        "192.0.0.9",
        "192.88.99.1",
        "198.18.0.1",
        "255.255.255.255",
    ],
)
def test_an_address_of_our_own_network_is_not_public(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize(
    "ip", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
)
def test_an_address_of_the_open_internet_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1/a", "address_refused"),
        ("http://localhost/a", "address_refused"),
        ("http://2130706433/a", "address_refused"),
        ("http://0x7f.1/a", "address_refused"),
        ("http://[::1]/a", "address_refused"),
        ("http://169.254.169.254/latest/meta-data", "address_refused"),
        ("file:///etc/passwd", "scheme_refused"),
        ("ftp://h.example/a", "scheme_refused"),
        ("gopher://h.example/a", "scheme_refused"),
        ("http://h.example:99999/a", "scheme_refused"),
    ],
)
def test_a_listing_cannot_make_us_read_our_own_network(url: str, code: str) -> None:
    with pytest.raises(FetchError) as caught:
        checked_target(url, frozenset())
    assert caught.value.code == code


@given(uri=st.text() | st.from_regex(r"https?://[\[\]@:%/?#.a-z0-9]{0,20}", fullmatch=True))
def test_no_address_of_a_listing_ends_the_run(uri: str) -> None:
    with contextlib.suppress(FetchError):  # any other error would
        parts, host = split_address(uri)
        assert parts.scheme in ("http", "https")
        assert host
