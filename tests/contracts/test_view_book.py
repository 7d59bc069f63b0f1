"""What every book of the viewer promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from datetime import UTC, timedelta
from uuid import uuid4

import pytest

from steward.adapters.memory_view_book import MemoryViewBook
from steward.adapters.postgres_view_book import PostgresViewBook
from steward.errors import BadRequest
from steward.exchange import LOCAL_ORG
from steward.ports import ViewAct, ViewBook, ViewEntry, ViewToken
from tests.contracts.records import ORG, OTHER_ORG

HOUR = timedelta(hours=1)
PEER = "10.0.0.9"
_numbers = itertools.count()


def a_hash() -> str:
    return hashlib.sha256(f"view-{next(_numbers)}".encode()).hexdigest()


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def book(request: pytest.FixtureRequest) -> ViewBook:
    if request.param == "memory":
        return MemoryViewBook()
    return PostgresViewBook(request.getfixturevalue(request.param).engine)


def made(book: ViewBook, lasts: timedelta = HOUR) -> tuple[ViewToken, str]:
    token_hash = a_hash()
    return book.create_token(ORG, "ada", token_hash, lasts), token_hash


def test_a_token_lasts_as_long_as_was_said(book: ViewBook) -> None:
    token, _ = made(book, timedelta(minutes=90))
    assert (token.org_id, token.name, token.revoked_at) == (ORG, "ada", None)
    assert abs(token.expires_at - token.created_at - timedelta(minutes=90)) < timedelta(seconds=5)
    assert token.created_at.tzinfo == UTC


def test_a_token_s_name_is_a_name(book: ViewBook) -> None:
    assert book.create_token(ORG, " a\0b ", a_hash(), HOUR).name == "a\ufffdb"
    with pytest.raises(BadRequest):
        book.create_token(ORG, " ", a_hash(), HOUR)


def test_all_tokens_are_listed_newest_first(book: ViewBook) -> None:
    assert book.tokens() == []
    tokens = [made(book)[0] for _ in range(3)]
    local = book.create_token(LOCAL_ORG, "local", a_hash(), HOUR)
    assert book.tokens() == [local, *tokens[::-1]]


def test_a_token_opens_a_session_of_its_own_organisation(book: ViewBook) -> None:
    token, token_hash = made(book)
    session_hash = a_hash()
    session = book.sign_in_with_token(token_hash, session_hash, PEER, 12 * HOUR)
    assert session is not None
    assert (session.who, session.org_ids) == ("token ada", (ORG,))
    assert session.expires_at == token.expires_at, "never beyond the token"
    assert book.session(session_hash) == session
    assert book.session(token_hash) is None


def test_a_session_is_no_longer_than_was_said(book: ViewBook) -> None:
    token, token_hash = made(book, 100 * HOUR)
    session = book.sign_in_with_token(token_hash, a_hash(), PEER, 12 * HOUR)
    assert session is not None
    assert abs(session.expires_at - token.created_at - 12 * HOUR) < timedelta(minutes=1)


@pytest.mark.parametrize("token_hash", ["", "0" * 64, "' OR true --"])
def test_what_is_no_token_opens_nothing(book: ViewBook, token_hash: str) -> None:
    made(book)
    assert book.sign_in_with_token(token_hash, a_hash(), PEER, HOUR) is None
    assert book.notes(10) == []


def test_an_expired_token_opens_nothing_and_its_sessions_end(book: ViewBook) -> None:
    _, gone = made(book, timedelta(seconds=-1))
    assert book.sign_in_with_token(gone, a_hash(), PEER, HOUR) is None
    _, good = made(book)
    session_hash = a_hash()
    assert book.sign_in_with_token(good, session_hash, PEER, timedelta(seconds=-1)) is not None
    assert book.session(session_hash) is None


def test_a_revoked_token_opens_nothing_and_its_sessions_end(book: ViewBook) -> None:
    token, token_hash = made(book)
    _, other_hash = made(book)
    mine, other = a_hash(), a_hash()
    book.sign_in_with_token(token_hash, mine, PEER, HOUR)
    book.sign_in_with_token(other_hash, other, PEER, HOUR)
    revoked = book.revoke_token(token.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert book.revoke_token(token.id) == revoked
    assert book.session(mine) is None
    assert book.sign_in_with_token(token_hash, a_hash(), PEER, HOUR) is None
    assert book.session(other) is not None
    assert book.revoke_token(uuid4()) is None


def test_a_person_has_the_organisations_that_were_named(book: ViewBook) -> None:
    session_hash = a_hash()
    session = book.sign_in("ada [1]", [ORG, OTHER_ORG], session_hash, PEER, HOUR)
    assert (session.who, session.org_ids) == ("ada [1]", (ORG, OTHER_ORG))
    assert book.session(session_hash) == session


def test_a_session_that_was_ended_is_no_session(book: ViewBook) -> None:
    session_hash = a_hash()
    session = book.sign_in("ada", [ORG], session_hash, PEER, HOUR)
    for _ in range(2):
        book.sign_out(session_hash, "10.0.0.10")
    assert book.session(session_hash) is None
    assert [replace(each, at=None) for each in book.notes(10)] == [
        ViewEntry(ViewAct.SIGNED_OUT, "ada", "10.0.0.10", session.id),
        ViewEntry(ViewAct.SIGNED_IN, "ada", PEER, session.id),
    ]


def test_what_is_noted_is_told_newest_first(book: ViewBook) -> None:
    session = book.sign_in("ada", [ORG], a_hash(), PEER, HOUR)
    entries = [
        ViewEntry(ViewAct.OPENED, "ada", PEER, session.id, ORG, uuid4()),
        ViewEntry(ViewAct.DOWNLOADED, "ada", PEER, session.id, ORG, uuid4()),
        ViewEntry(ViewAct.REFUSED, "ada", PEER, session.id, None, uuid4(), "no_such_call"),
    ]
    for entry in entries:
        book.note(entry)
    assert [replace(each, at=None) for each in book.notes(3)] == entries[::-1]
    assert len(book.notes(2)) == 2
    assert all(each.at is not None for each in book.notes(10))
