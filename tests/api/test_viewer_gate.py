"""What comes in to the viewer, and what every answer carries."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from steward.api.viewer_gate import HEADERS, POLICY, Gate

HOST = ("host", "view.example.com")
TYPED = [HOST, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]


def with_(**changes: str) -> list[tuple[str, str]]:
    """A typed address, but for these fields; an empty one is not sent."""
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    fields = [(name, named.pop(name, value)) for name, value in TYPED] + list(named.items())
    return [each for each in fields if each[1]]


class Behind:
    """The application behind the gate: keeps what came in, and says fields of its own."""

    def __init__(self) -> None:
        self.came: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.came.append(scope)
        said = [(b"content-type", b"text/html"), (b"Cache-Control", b"public"), (b"content-security-policy", b"*")]
        await send({"type": "http.response.start", "status": 200, "headers": said})
        await send({"type": "http.response.body", "body": b"in"})


def ask(
    fields: list[tuple[str, str]], method: str = "GET", path: str = "/", url: str = "https://view.example.com"
) -> tuple[int, list[Any], Behind]:
    behind, sent = Behind(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    headers = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Gate(behind, url)(scope, receive, send))
    return sent[0]["status"], sent[0]["headers"], behind


def status(fields: list[tuple[str, str]], method: str = "GET", path: str = "/") -> int:
    found, headers, behind = ask(fields, method, path)
    assert bool(behind.came) == (found == 200)
    carried = dict(headers)
    assert all(carried[name] == value for name, value in HEADERS.items())
    assert len(headers) == len({name.lower() for name, _ in headers})
    return found


@pytest.mark.parametrize(
    "host",
    [
        *(
            "view.example.com:443",
            "view.example.com:7681",
            "view.example.com.",
            "example.com",
            "127.0.0.1",
            "localhost",
        ),
        *("evil.example", "view.example.com@evil.example", "view.example.com,evil.example", "", "[::1]", "\xe9"),
    ],
)
def test_another_host_is_misdirected(host: str) -> None:
    assert status([("host", host), *TYPED[1:]]) == 421
    assert status([HOST, ("host", host), *TYPED[1:]]) == 421


def test_no_host_is_misdirected_and_its_case_does_not_count() -> None:
    assert status(TYPED[1:]) == 421
    assert status(with_(host="VIEW.example.COM")) == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get"])
def test_other_methods_are_not_allowed(method: str) -> None:
    assert status(with_(sec_fetch_site="same-origin"), method) == 405


SITES = ("same-origin", "same-site", "cross-site", "none", "", "nonsense")
MODES = ("navigate", "cors", "no-cors", "same-origin", "websocket", "")
DESTS = ("document", "iframe", "frame", "object", "embed", "image", "script", "style", "empty", "report", "")


def test_only_a_window_s_own_navigation_comes_in_and_the_style_of_our_page() -> None:
    for site, mode, dest, method in itertools.product(SITES, MODES, DESTS, ("GET", "POST")):
        fields = with_(sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest)
        navigates = (mode, dest) == ("navigate", "document")
        page = navigates and (site == "same-origin" if method == "POST" else site in SITES[:4])
        assert status(fields, method) == (200 if page else 403), fields
        style = method == "GET" and site == "same-origin"
        assert status(fields, method, "/style.css") == (200 if page or style else 403), fields


@pytest.mark.parametrize("site", SITES[:4])
def test_what_another_site_led_here_is_marked(site: str) -> None:
    _, _, behind = ask(with_(sec_fetch_site=site))
    assert behind.came[0]["state"]["foreign"] is (site not in ("same-origin", "none"))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://view.example.com", "https://view.example.com.evil", ""]
)
def test_a_form_of_another_origin_is_refused(origin: str) -> None:
    fields = [*with_(sec_fetch_site="same-origin"), ("origin", origin)]
    assert status(fields, "POST") == 403


@pytest.mark.parametrize("origin", ["null", "https://view.example.com"])
def test_a_form_of_our_own_page_comes_in(origin: str) -> None:
    assert status([*with_(sec_fetch_site="same-origin"), ("origin", origin)], "POST") == 200


@pytest.mark.parametrize(
    "field", [("sec-purpose", "prefetch"), ("purpose", "prefetch"), ("sec-purpose", "prefetch;prerender")]
)
def test_a_browser_that_looks_ahead_opens_nothing(field: tuple[str, str]) -> None:
    assert status([*TYPED, field]) == 403


def test_every_answer_carries_what_keeps_others_out() -> None:
    _, headers, _ = ask(TYPED)
    carried = {name.decode(): value.decode() for name, value in headers}
    assert carried == {
        "content-type": "text/html",
        "content-security-policy": POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "strict-transport-security": "max-age=31536000",
    }
    for part in (
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'none'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ):
        assert part in POLICY.split("; ")
    assert "script" not in POLICY


def test_what_is_no_http_is_left_unanswered() -> None:
    behind = Behind()
    asyncio.run(Gate(behind, "https://view.example.com")({"type": "websocket"}, None, None))
    assert behind.came == []


def test_over_https_a_browser_is_told_to_stay_and_over_http_nothing_of_it() -> None:
    for fields, method, found in ((TYPED, "GET", 200), (TYPED, "PUT", 405), ([HOST], "GET", 403)):
        told, headers, _ = ask(fields, method)
        assert (told, dict(headers)[b"strict-transport-security"]) == (found, b"max-age=31536000")
        told, headers, _ = ask(fields, method, url="http://view.example.com")
        assert told == found
        assert b"strict-transport-security" not in dict(headers)
    told, headers, _ = ask([("host", "other.example.com"), *TYPED[1:]])
    assert (told, b"strict-transport-security" in dict(headers)) == (421, False), (
        "another host is not ours to speak for"
    )
