"""The viewer's settings: one way to write an address, a closed list of who may open what."""

from __future__ import annotations

from uuid import UUID

import pytest

from steward.exchange import LOCAL_ORG
from steward.view_values import groups, issuer, organisation, shown_groups, shown_organisation, view_url
from tests.contracts.records import ORG, OTHER_ORG

URLS = {
    "https://View.Example.com": "https://view.example.com",
    "https://view.example.com:443/": "https://view.example.com",
    "https://view.example.com:8443": "https://view.example.com:8443",
    "http://localhost:7681": "http://localhost:7681",
    "http://127.0.0.1:80": "http://127.0.0.1",
    "http://[::1]:7681": "http://[::1]:7681",
}


@pytest.mark.parametrize(("given", "read"), URLS.items())
def test_an_address_is_as_a_browser_shows_it(given: str, read: str) -> None:
    assert view_url(given) == read


@pytest.mark.parametrize(
    "given",
    [
        *("http://view.example.com", "http://10.0.0.1:7681", "http://view", "ftp://localhost", "localhost:7681", ""),
        *("https://view.example.com/path", "https://view.example.com?x", "https://a@view.example.com", "https://"),
        *("https://view.example.com#x", "https://view.example.com:0", "https://view.example.com:99999"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        view_url(given)


def test_an_issuer_stays_as_it_was_written() -> None:
    assert issuer("https://login.example.com/tenant/v2.0") == "https://login.example.com/tenant/v2.0"
    assert issuer("https://Login.example.com/") == "https://Login.example.com/"
    for given in ("http://login.example.com", "http://10.0.0.1", "https://login.example.com?x=1", "login.example.com"):
        with pytest.raises(ValueError, match=r"."):
            issuer(given)


def test_an_organisation_is_its_id_or_local() -> None:
    assert organisation("local") == LOCAL_ORG
    assert organisation(str(ORG)) == ORG
    assert [shown_organisation(each) for each in (LOCAL_ORG, ORG)] == ["local", str(ORG)]
    for given in ("", "acme", str(ORG).upper().replace("0198C0DE", "0198C0DE{"), ORG.hex, f"{{{ORG}}}", "Local"):
        with pytest.raises(ValueError, match="organisation"):
            organisation(given)


def test_groups_open_what_is_said_and_may_stand_twice() -> None:
    found = groups(f"readers={ORG}, /kc/path = local ,readers={OTHER_ORG},")
    assert found == {"readers": frozenset({ORG, OTHER_ORG}), "/kc/path": frozenset({UUID(int=0)})}
    assert groups(shown_groups(found)) == found


@pytest.mark.parametrize("given", ["", ",", "readers", "=local", "readers=", "a=b=local", "a\nb=local", "r\x7f=local"])
def test_groups_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        groups(given)


def test_a_hundred_groups_are_enough() -> None:
    with pytest.raises(ValueError, match="100"):
        groups(",".join(f"g{number}=local" for number in range(101)))
