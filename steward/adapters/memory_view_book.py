"""The viewer's book in this process: for tests and for trying things out. Nothing outlives the process."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from steward.ports import ViewAct, ViewBook, ViewEntry, ViewSession, ViewToken, key_name


@dataclass(frozen=True, slots=True)
class _Open:
    session: ViewSession
    token_id: UUID | None


class MemoryViewBook(ViewBook):
    """Dictionaries by hash, and a list. `now`: the clock."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._tokens: dict[str, ViewToken] = {}
        self._open: dict[str, _Open] = {}
        self._entries: list[ViewEntry] = []

    def create_token(self, org_id: UUID, name: str, token_hash: str, lasts: timedelta) -> ViewToken:
        now = self._now()
        token = ViewToken(uuid4(), org_id, key_name(name), now, now + lasts)
        with self._lock:
            self._tokens[token_hash] = token
        return token

    def tokens(self) -> list[ViewToken]:
        return list(self._tokens.values())[::-1]

    def revoke_token(self, token_id: UUID) -> ViewToken | None:
        with self._lock:
            for token_hash, token in self._tokens.items():
                if token.id == token_id:
                    revoked = dataclasses.replace(token, revoked_at=token.revoked_at or self._now())
                    self._tokens[token_hash] = revoked
                    return revoked
        return None

    def sign_in_with_token(self, token_hash: str, session_hash: str, peer: str, lasts: timedelta) -> ViewSession | None:
        token = self._tokens.get(token_hash)
        if token is None or not self._good(token):
            return None
        until = min(token.expires_at, self._now() + lasts)
        session = ViewSession(uuid4(), f"token {token.name}", (token.org_id,), until)
        return self._began(session_hash, _Open(session, token.id), peer)

    def sign_in(self, who: str, org_ids: Sequence[UUID], session_hash: str, peer: str, lasts: timedelta) -> ViewSession:
        session = ViewSession(uuid4(), who, tuple(org_ids), self._now() + lasts)
        return self._began(session_hash, _Open(session, None), peer)

    def session(self, session_hash: str) -> ViewSession | None:
        found = self._open.get(session_hash)
        if found is None or found.session.expires_at <= self._now():
            return None
        token = next((token for token in self._tokens.values() if token.id == found.token_id), None)
        return found.session if token is None or self._good(token) else None

    def sign_out(self, session_hash: str, peer: str) -> None:
        with self._lock:
            found = self._open.pop(session_hash, None)
        if found is not None:
            self.note(ViewEntry(ViewAct.SIGNED_OUT, found.session.who, peer, found.session.id))

    def note(self, entry: ViewEntry) -> None:
        with self._lock:
            self._entries.append(dataclasses.replace(entry, at=self._now()))

    def notes(self, limit: int) -> list[ViewEntry]:
        return self._entries[::-1][:limit]

    def _good(self, token: ViewToken) -> bool:
        return token.revoked_at is None and token.expires_at > self._now()

    def _began(self, session_hash: str, opened: _Open, peer: str) -> ViewSession:
        with self._lock:
            self._open[session_hash] = opened
        self.note(ViewEntry(ViewAct.SIGNED_IN, opened.session.who, peer, opened.session.id))
        return opened.session
