"""Each parser takes what it says and nothing else, and never repeats what it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from steward import values
from steward.words import Secret


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("600s", 600), ("5m", 300), ("1h", 3600), ("2d", 172800), ("1500ms", 1.5), ("0.5", 0.5), ("0", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.duration(0, 1e6)(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1w", "1e3", "١s", "1s\n", "nan", "inf", "9999999999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        values.duration(0, 1e6)(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [("256MiB", 256 << 20), ("1KB", 1000), ("1KiB", 1024), ("3B", 3), ("7", 7), ("0", 0), ("1TB", 10**12)],
)
def test_sizes(text: str, octets: int) -> None:
    assert values.size(0, 10**12)(text) == octets


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "1mib", "1 MiB", "١", "1\n"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        values.size(0, 10**12)(text)


def test_bounds_are_kept() -> None:
    for parse, text in ((values.duration(1, 5), "6s"), (values.size(1, 5), "6B")):
        with pytest.raises(ValueError, match="out of range"):
            parse(text)
    with pytest.raises(ValueError, match="whole number from 1 to 5"):
        values.whole(1, 5)("0")


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "127.255.1.1", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST", "a.localhost"]
)
def test_loopback(name: str) -> None:
    assert values.is_loopback(name)
    assert values.is_private(name)


@pytest.mark.parametrize(
    "name",
    ["10.1.1.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fd00::1", "vllm", "a.b.internal", "printer.local"],
)
def test_private(name: str) -> None:
    assert values.is_private(name)
    assert not values.is_loopback(name)


@pytest.mark.parametrize(
    "name",
    [
        "172.32.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "fe80::1",
        "8.8.8.8",
        "example.com",
        "internal.example.com",
        "127.0.0.1.nip.io",
    ],
)
def test_not_private(name: str) -> None:
    assert not values.is_private(name)


@pytest.mark.parametrize("given_host", ["", "a b", "a/b", "a:1", "-a", "a..b", "a\n", "[::1]", "x" * 254])
def test_what_is_no_host(given_host: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        values.host(given_host)


def test_a_socket_folder_is_a_postgres_host() -> None:
    assert values.postgres_host("/var/run/postgresql") == "/var/run/postgresql"


@pytest.mark.parametrize("given_proxy", ["proxy:3128", "http://proxy:3128", "http://proxy:3128/"])
def test_a_proxy_with_and_without_scheme(given_proxy: str) -> None:
    found = values.proxy(given_proxy)
    assert found == Secret("http://proxy:3128")
    assert values.shown_proxy(found) == "http://proxy:3128"


def test_a_proxys_password_is_not_shown() -> None:
    assert values.shown_proxy(values.proxy("http://user:p%40ss@proxy:3128")) == "http://***@proxy:3128"


def test_a_certificate_file_holds_certificates(tmp_path: Path) -> None:
    bundle, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    other.write_text("no certificate")
    assert values.certificate_file(str(bundle)) == bundle
    for wrong in (other, tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"no such file|no PEM certificate"):
            values.certificate_file(str(wrong))


PARSERS: list[Callable[[str], object]] = [
    *(values.duration(0, 10), values.size(0, 10), values.whole(0, 10), values.choice("a"), values.text, values.secret),
    *(values.encryption_key, values.admin_token, values.existing_file, values.certificate_file, values.folder),
    values.host,
    *(
        values.postgres_host,
        values.feed_url,
        values.origin,
        values.endpoint,
        values.proxy,
        values.names,
        values.unquoted,
    ),
]


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PARSERS), st.text(max_size=60))
def test_whatever_is_refused_is_not_repeated(parse: Callable[[str], object], given_text: str) -> None:
    canary = f"{given_text}CANARY"
    refusal = _refusal(parse, canary)
    assert refusal is None or ("CANARY" not in refusal and refusal.isprintable())


def _refusal(parse: Callable[[str], object], given_text: str) -> str | None:
    try:
        parse(given_text)
    except ValueError as refused:
        return str(refused.args[0])
    return None


@pytest.mark.parametrize(
    "url",
    [
        "http://butler.example",
        "http://10.0.0.7:8080",
        "ftp://butler.example",
        "https://",
        "butler.example",
        "https://anna:secret@butler.example",
        "https://butler.example/?org=1",
        "https://butler.example/#x",
        "https://butler.example?",
        "https://butler.example/a/../b",
        "https://butler.example/%2e%2e",
        "https://butler.example/" + "x" * 2000,
        "",
    ],
)
def test_an_address_that_may_not_be_asked_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - each has its own sentence
        values.butler_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://butler.example", "https://butler.example"),
        (" https://butler.example/ ", "https://butler.example"),
        ("https://butler.example:8443/path/", "https://butler.example:8443/path"),
        ("http://localhost:7690", "http://localhost:7690"),
        ("http://127.0.0.1:7690", "http://127.0.0.1:7690"),
        ("http://[::1]:7690", "http://[::1]:7690"),
        ("HTTPS://Butler.Example:443/Path", "https://butler.example/Path"),
    ],
)
def test_https_and_loopback_may_be_asked(url: str, base: str) -> None:
    assert values.butler_url(url) == base
