"""Who may see what in the viewer, and the account of it. Knows no HTTP, no page and no provider's protocol.

Nothing is shown before its line stands in the account, and nothing of another organisation is told from nothing at all
(SECURITY F5). What Butler issues opens nothing here: it is no token of `view-token create`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from steward import domains
from steward.body_reading import MAX_OBJECT_BYTES, unpacked
from steward.errors import BodyNotFound, BodyTooLarge, NoSuchCall, SignInRefused, StewardError
from steward.exchange import BodyState, Record
from steward.ports import BodyStore, Ledger, Person, ViewAct, ViewBook, ViewEntry, ViewSession, ViewToken
from steward.timed_reads import TimedReads

TOKEN_PREFIX: Final = "mdm_vt_"  # noqa: S105
CALLBACK_PATH: Final = "/sign-in/callback"
"""Where the OpenID provider sends a browser back to."""
SESSION_LASTS: Final = timedelta(hours=12)
MAX_LISTED: Final = 200
_TOKEN: Final = re.compile(r"mdm_vt_[A-Za-z0-9_-]{43}")
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_WHO: Final = 280

StoreOf = Callable[[Record], BodyStore | None]
"""Which store a row's body is in, as local settings and approvals decide it; None: no store that may be asked."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A call that somebody may see: its row, and its body where there is one."""

    row: Record
    document: bytes | None = field(default=None, repr=False)
    """The JSON document of its object."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A call that somebody may see, its object as it lay in the store, and what is written before it is shown."""

    row: Record
    octets: bytes | None = field(repr=False)
    entry: ViewEntry


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that has begun, and what the browser keeps of it."""

    session: ViewSession
    secret: str = field(repr=False)


def digest(secret: str) -> str:
    """What is kept of a token or a session."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token(book: ViewBook, org_id: UUID, name: str, lasts: timedelta) -> tuple[str, ViewToken]:
    """A token, whose plaintext is known here and nowhere else, and its row."""
    plaintext = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return plaintext, book.create_token(org_id, name, digest(plaintext), lasts)


class Viewing:
    """What the viewer's pages ask for. Every method raises LedgerFault where the database cannot say."""

    def __init__(
        self,
        book: ViewBook,
        ledger: Ledger,
        store_of: StoreOf,
        groups: Mapping[str, frozenset[UUID]] | None = None,
        butler_urls: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`groups`: whose bodies a provider's group opens. `butler_urls`: the Butlers that are registered."""
        self._book = book
        self._ledger = ledger
        self._store_of = store_of
        self.reads = TimedReads()
        """How long a store may take, and how many are asked of it at once."""
        self._groups = groups or {}
        self._butler_urls = butler_urls

    def shares_a_host(self, host: str) -> bool:
        """Whether a Butler is reached by this host name: a browser would send it the viewer's cookie too."""
        return any((urlsplit(url).hostname or "") == host for url in self._butler_urls())

    def sign_in_with_token(self, token: str, peer: str, before: str | None) -> SignedIn | None:
        """A new session, never an old one made better; None for a token that opens nothing."""
        if not _TOKEN.fullmatch(token):
            return None
        secret = secrets.token_urlsafe(32)
        session = self._book.sign_in_with_token(digest(token), digest(secret), peer, SESSION_LASTS)
        if session is None:
            return None
        self.sign_out(before, peer)
        return SignedIn(session, secret)

    def sign_in(self, person: Person, peer: str, before: str | None) -> SignedIn:
        """The same of whom the OpenID provider named. Raises SignInRefused: in no group that opens anything."""
        orgs = sorted({org for group in person.groups for org in self._groups.get(group, ())})
        who = domains.clean_text(person.who, _MAX_WHO)
        if not orgs or not who:
            raise SignInRefused
        secret = secrets.token_urlsafe(32)
        session = self._book.sign_in(who, orgs, digest(secret), peer, SESSION_LASTS)
        self.sign_out(before, peer)
        return SignedIn(session, secret)

    def sign_out(self, secret: str | None, peer: str) -> None:
        """Ends a session."""
        if secret is not None and _SESSION.fullmatch(secret):
            self._book.sign_out(digest(secret), peer)

    def session(self, secret: str | None) -> ViewSession | None:
        """Whose browser this is; None for nobody's."""
        return self._book.session(digest(secret)) if secret is not None and _SESSION.fullmatch(secret) else None

    def newest(self, session: ViewSession, org_id: UUID) -> list[Record]:
        """The newest calls of one of the session's organisations. Raises NoSuchCall for another's."""
        if org_id not in session.org_ids:
            raise NoSuchCall
        return [row.record for row in self._ledger.newest(org_id, MAX_LISTED)]

    def open(self, session: ViewSession, request_id: UUID, peer: str, act: ViewAct) -> Opened:
        """A call of the session's organisations. A body is given out once the account tells it, and so is a refusal.

        Raises NoSuchCall, NotTheObject, BodyTooLarge, BodyUnreadable, StoreFault, LedgerFault.
        """
        return self.opened(self.fetch(session, request_id, peer, act))

    def fetch(self, session: ViewSession, request_id: UUID, peer: str, act: ViewAct) -> Fetched:
        """The first half, which waits for the store: so long as `TimedReads` lets it. Raises StoreSlow besides."""
        row = self._row(session, request_id)
        entry = ViewEntry(act, session.who, peer, session.id, row.org_id if row else None, request_id)
        with self._refusals(entry):
            if row is None:
                raise NoSuchCall
            return Fetched(row, self._octets(row), entry)

    def opened(self, fetched: Fetched) -> Opened:
        """The second half, which takes memory and no time of others: unpacked, compared, written down."""
        row = fetched.row
        if fetched.octets is None:
            return Opened(row)
        with self._refusals(fetched.entry):
            opened = Opened(row, unpacked(fetched.octets, row.body_sha256))
        self._book.note(fetched.entry)
        return opened

    @contextmanager
    def _refusals(self, entry: ViewEntry) -> Iterator[None]:
        try:
            yield
        except StewardError as refused:
            self._book.note(replace(entry, act=ViewAct.REFUSED, code=refused.code))
            raise

    def _row(self, session: ViewSession, request_id: UUID) -> Record | None:
        for org_id in session.org_ids:
            if (found := self._ledger.get(org_id, request_id)) is not None:
                return found.record
        return None

    def _octets(self, row: Record) -> bytes | None:
        """The row's object, still packed; None where the row says that there is none, or no store may be asked."""
        if row.body_state is not BodyState.STORED or row.body_key is None:
            return None
        if row.body_bytes is not None and row.body_bytes > MAX_OBJECT_BYTES:
            raise BodyTooLarge
        store = self._store_of(row)
        if store is None:
            return None
        key, name = row.body_key, None if row.storage_config_id is None else (row.org_id, row.storage_config_id)
        try:
            return self.reads.read(name, lambda: store.get(key, MAX_OBJECT_BYTES))
        except ValueError:
            raise BodyNotFound from None
