"""Who sees what, and that it is written down before it is shown."""

from __future__ import annotations

import gzip
import hashlib
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_view_book import MemoryViewBook
from steward.errors import (
    BodyNotFound,
    BodyTooLarge,
    LedgerUnavailable,
    NoSuchCall,
    NotTheObject,
    SignInRefused,
    StewardError,
    StoreSlow,
    StoreUnavailable,
)
from steward.exchange import BodyState, Record
from steward.ports import Person, Put, ViewAct, ViewEntry, ViewSession
from steward.timed_reads import TimedReads
from steward.viewing import SESSION_LASTS, SignedIn, Viewing, digest, new_token
from tests.contracts.records import ORG, OTHER_ORG, a_full_record, new_id

PEER = "10.0.0.9"
HOUR = timedelta(hours=1)
DOCUMENT = b'{"request":{},"response":{}}'


class Setting:
    """A viewing over what lives in this process."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, tzinfo=UTC)
        self.book = MemoryViewBook(lambda: self.now)
        self.ledger = MemoryLedger()
        self.store = MemoryBodyStore()
        self.butlers: Sequence[str] = ()
        groups = {"readers": frozenset({ORG}), "both": frozenset({ORG, OTHER_ORG})}
        self.viewing = Viewing(self.book, self.ledger, lambda row: self.store, groups, lambda: self.butlers)

    def keep(self, octets: bytes | None = None, **changes: object) -> Record:
        octets = gzip.compress(DOCUMENT) if octets is None else octets
        request_id, sha256 = new_id(), hashlib.sha256(octets).hexdigest()
        key = f"{UUID(int=7)}/2026-11-20/{request_id}.json.gz"
        self.store.put_many([Put(key, octets, sha256, len(octets))])
        facts = {"body_state": BodyState.STORED, "body_key": key, "body_sha256": sha256, "body_bytes": len(octets)}
        record = a_full_record(id=request_id, **(facts | changes))
        self.ledger.record([record])
        return record

    def sign_in(self, org_id: UUID = ORG) -> SignedIn:
        made = self.viewing.sign_in_with_token(new_token(self.book, org_id, "ada", HOUR)[0], PEER, None)
        assert made is not None
        return made

    def lines(self) -> list[ViewEntry]:
        """The account but for sign-ins, oldest first."""
        return [replace(each, at=None) for each in self.book.notes(99)[::-1] if each.act is not ViewAct.SIGNED_IN]


@pytest.fixture
def here() -> Setting:
    return Setting()


def refused(here: Setting, session: ViewSession, request_id: UUID, kind: type[StewardError]) -> None:
    with pytest.raises(kind):
        here.viewing.open(session, request_id, PEER, ViewAct.OPENED)
    line = here.lines()[-1]
    assert (line.act, line.who, line.request_id, line.code) == (ViewAct.REFUSED, session.who, request_id, kind.code)


def test_an_opening_is_a_line_who_what_when_from_where(here: Setting) -> None:
    row, session = here.keep(), here.sign_in().session
    assert here.viewing.open(session, row.id, PEER, ViewAct.OPENED).document == DOCUMENT
    assert here.viewing.open(session, row.id, PEER, ViewAct.DOWNLOADED).document == DOCUMENT
    assert here.lines() == [
        ViewEntry(act, "token ada", PEER, session.id, ORG, row.id) for act in (ViewAct.OPENED, ViewAct.DOWNLOADED)
    ]
    assert all(each.at == here.now for each in here.book.notes(9))


def test_nothing_is_shown_that_cannot_be_written_down(here: Setting) -> None:
    class Full(MemoryViewBook):
        def note(self, entry: ViewEntry) -> None:
            raise LedgerUnavailable

    row, session = here.keep(), here.sign_in().session
    viewing = Viewing(Full(), here.ledger, lambda row: here.store)
    with pytest.raises(LedgerUnavailable):
        viewing.open(session, row.id, PEER, ViewAct.OPENED)


def test_not_found_and_not_yours_are_one_answer(here: Setting) -> None:
    theirs, session = here.keep(org_id=OTHER_ORG), here.sign_in().session
    refused(here, session, theirs.id, NoSuchCall)
    refused(here, session, new_id(), NoSuchCall)
    assert {line.org_id for line in here.lines()} == {None}
    with pytest.raises(NoSuchCall):
        here.viewing.newest(session, OTHER_ORG)
    assert here.viewing.newest(session, ORG) == []


def test_another_object_than_the_row_s_is_not_shown(here: Setting) -> None:
    row, session = here.keep(), here.sign_in().session
    assert row.body_key is not None
    here.store.objects[row.body_key] = gzip.compress(b'{"request":{},"response":{"body":"planted"}}')
    refused(here, session, row.id, NotTheObject)
    unhashed = here.keep(body_sha256=None)
    refused(here, session, unhashed.id, NotTheObject)


def test_a_planted_object_that_unpacks_without_end_is_not_unpacked(here: Setting) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(100)]) + packer.flush()
    row, session = here.keep(), here.sign_in().session
    assert row.body_key is not None
    here.store.objects[row.body_key] = bomb
    refused(here, session, row.id, NotTheObject)
    refused(here, session, here.keep(bomb).id, BodyTooLarge)


def test_an_object_of_many_octets_is_not_fetched(here: Setting) -> None:
    row, session = here.keep(), here.sign_in().session
    assert row.body_key is not None
    here.store.objects[row.body_key] = bytes((64 << 20) + 1)
    refused(here, session, row.id, BodyTooLarge)
    refused(here, session, here.keep(body_bytes=65 << 20).id, BodyTooLarge)


def test_a_store_that_takes_too_long_is_left_and_the_account_says_so(here: Setting) -> None:
    row, session, ends = here.keep(), here.sign_in().session, threading.Event()

    class Hanging(MemoryBodyStore):
        def get(self, key: str, most_bytes: int | None = None) -> bytes:
            ends.wait(60)
            raise StoreUnavailable

    store = Hanging()
    here.viewing = Viewing(here.book, here.ledger, lambda row: store)
    here.viewing.reads = TimedReads(within_s=0.01)
    refused(here, session, row.id, StoreSlow)
    ends.set()


def test_an_object_that_is_gone_or_has_no_proper_key_is_told_so(here: Setting) -> None:
    row, session = here.keep(), here.sign_in().session
    here.store.objects.clear()
    refused(here, session, row.id, BodyNotFound)
    refused(here, session, here.keep(body_key="../../etc/passwd").id, BodyNotFound)


@pytest.mark.parametrize("state", [each for each in BodyState if each is not BodyState.STORED])
def test_without_a_body_there_are_the_facts_alone(here: Setting, state: BodyState) -> None:
    row, session = here.keep(body_state=state), here.sign_in().session
    opened = here.viewing.open(session, row.id, PEER, ViewAct.OPENED)
    assert (opened.row, opened.document) == (row, None)
    assert here.lines() == []


def test_a_row_of_a_store_that_may_not_be_asked_has_no_body(here: Setting) -> None:
    row, session = here.keep(), here.sign_in().session
    viewing = Viewing(here.book, here.ledger, lambda row: None)
    assert viewing.open(session, row.id, PEER, ViewAct.OPENED).document is None


@pytest.mark.parametrize(
    "token",
    ["", "mdm_sk_" + "a" * 43, "mdm_st_" + "a" * 43, "mdm_pk_" + "a" * 43, "mdm_vt_short", "mdm_vt_" + "a" * 43],
)
def test_what_is_no_view_token_opens_nothing(here: Setting, token: str) -> None:
    here.book.create_token(ORG, "planted", digest(token.replace("mdm_vt_" + "a" * 43, "another")), HOUR)
    assert here.viewing.sign_in_with_token(token, PEER, None) is None
    assert here.book.notes(9) == []


def test_every_sign_in_is_a_new_session_and_ends_the_one_before(here: Setting) -> None:
    first = here.sign_in()
    token, _ = new_token(here.book, ORG, "ada", HOUR)
    second = here.viewing.sign_in_with_token(token, PEER, first.secret)
    assert second is not None
    assert second.secret != first.secret
    assert here.viewing.session(first.secret) is None
    assert here.viewing.session(second.secret) == second.session


def test_a_session_s_secret_is_not_its_hash(here: Setting) -> None:
    made = here.sign_in()
    assert here.viewing.session(made.secret) == made.session
    for other in (digest(made.secret), made.secret[:-1], "", None, str(made.session.id)):
        assert here.viewing.session(other) is None


def test_a_session_ends_after_twelve_hours_at_most_and_with_its_token(here: Setting) -> None:
    token, row = new_token(here.book, ORG, "ada", 100 * HOUR)
    made = here.viewing.sign_in_with_token(token, PEER, None)
    assert made is not None
    assert made.session.expires_at - here.now == SESSION_LASTS == 12 * HOUR
    here.now += SESSION_LASTS
    assert here.viewing.session(made.secret) is None
    again = here.viewing.sign_in_with_token(token, PEER, None)
    assert again is not None
    here.book.revoke_token(row.id)
    assert here.viewing.session(again.secret) is None


def test_a_person_opens_what_his_groups_open(here: Setting) -> None:
    made = here.viewing.sign_in(Person("ada", frozenset({"readers", "unknown"})), PEER, None)
    assert (made.session.who, made.session.org_ids) == ("ada", (ORG,))
    made = here.viewing.sign_in(Person("ada\0" + "x" * 500, frozenset({"both"})), PEER, None)
    assert made.session.org_ids == (ORG, OTHER_ORG)
    assert made.session.who.startswith("ada\ufffdx")


@pytest.mark.parametrize("groups", [(), ("unknown",), ("Readers", "readers ")])
def test_a_person_in_no_group_opens_nothing(here: Setting, groups: tuple[str, ...]) -> None:
    with pytest.raises(SignInRefused):
        here.viewing.sign_in(Person("ada", frozenset(groups)), PEER, None)
    assert here.book.notes(9) == []


def test_butler_s_host_is_known_whatever_its_port(here: Setting) -> None:
    here.butlers = ["https://butler.example.com:8443/x", "http://127.0.0.1:9000"]
    assert here.viewing.shares_a_host("butler.example.com")
    assert here.viewing.shares_a_host("127.0.0.1")
    assert not here.viewing.shares_a_host("view.example.com")
    assert not here.viewing.shares_a_host("localhost")
