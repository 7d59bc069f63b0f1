"""The seams: what the core asks of the world, and what each implementation promises. Protocols and their nouns only.

Each has one conformance suite in `tests/contracts/`, run over every implementation. Sync methods are called from
threads that may wait; the async ones, and `AfterResponse`, from the relay's event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol
from uuid import UUID

from steward.errors import BadRequest
from steward.exchange import BodyRef, BodyState, Caller, Exchange, Headers, Intent, Outbound, Record
from steward.trust_book import TrustBook
from steward.words import Secret

if TYPE_CHECKING:  # models take a fifth of a second to build: who relays never needs them
    from steward import egress

MAX_KEY_NAME = 200
"""Characters in a key's name."""

Source = bytes | BinaryIO
"""A body object ready to be stored: its octets, or a file that is read from its start."""


class Answer(Protocol):
    """A provider's answer: head known, body arriving."""

    @property
    def status(self) -> int:
        """The final status: 200 to 599."""

    @property
    def headers(self) -> Headers:
        """End-to-end fields, lower-case names, past the gate."""

    @property
    def length(self) -> int | None:
        """Octets announced by `content-length`; None when the end is told otherwise."""

    @property
    def complete(self) -> bool:
        """Everything has arrived and was taken: what `take` gave last ends the answer."""

    def take(self) -> bytes | None:
        """What has arrived, `b""` when nothing has, None when the answer is complete and taken. Never waits.

        Raises UpstreamBroke, UpstreamTimeout or UpstreamBadAnswer once what arrived before was taken.
        """

    def wait(self) -> Awaitable[None]:
        """Awaited until `take` has something to say."""

    def abort(self) -> None:
        """The connection is closed, now. Safe at any time, and again."""


class RequestBody(Protocol):
    """The caller's body, as the upstream asks for it."""

    def whole(self) -> bytes | None:
        """The whole body when all of it is here already, else None."""

    async def next(self) -> bytes | None:
        """The next piece, never empty; None after the last. Raises CallerGone when it was cut short."""


class Upstream(Protocol):
    """One request out; status, headers and raw octets back."""

    async def send(self, outbound: Outbound, body: RequestBody, on_sent: Callable[[], None]) -> Answer:
        """Returns when the head of the final answer is known. `on_sent` is called when the first byte goes out.

        Raises UpstreamUnreachable, UpstreamBadAnswer, UpstreamBroke, UpstreamTimeout, UpstreamBusy; CallerGone from
        the body. Cancelling closes the connection. A request that was written is never sent twice, but for an
        idempotent one of which no answer's byte came.
        """

    def forget_idle(self) -> None:
        """Closes what rests: the other side may have gone while this process was frozen. Called from its loop."""

    async def close(self) -> None:
        """Closes every connection."""


class AfterResponse(Protocol):
    """What happens to a call once it is relayed. Never delays or fails the caller.

    What `submit` accepts is settled at least once.
    """

    def intend(self, intent: Intent) -> Awaitable[None] | None:
        """Before the first byte goes upstream: a call that is `interrupted` if nothing more is heard of it.

        Awaited, if there is something to await, before that byte goes. Raises NotAccepted, at once or when awaited,
        when even this cannot be kept: then nothing is sent to the provider.
        """

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """Before the piece that ends the response is sent. Awaited, if there is something to await, before it is.

        Takes over the exchange's body files.
        """

    async def close(self) -> None:
        """Settles or keeps all it accepted, within the host's grace."""


@dataclass(slots=True, eq=False)
class Handed:
    """One thing that waits to be settled, as its queue hands it out."""

    item: Exchange | Intent
    """An `Intent` alone: the process that relayed the call died before its end."""
    recorded: bool = False
    """Its row is in the ledger; its body waits."""
    size_bytes: int = 0
    """What it takes in the queue, bodies included."""
    token: object = None
    """The queue's own mark."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much a queue holds."""

    items: int = 0
    """Calls that are not settled, those in flight not counted."""
    size_bytes: int = 0
    oldest_s: float = 0.0
    """Age of the oldest call that is not settled; 0 when there is none."""
    bodies: int = 0
    """Of the items, those whose row is in the ledger and whose body waits for its store."""
    set_aside: int = 0
    """Exchanges and bodies in quarantine."""
    lost: int = 0
    """Records known to be missing: octets that were cut or overwritten."""


class Settled(Protocol):
    """The other end of a durable `AfterResponse`: what waits is handed out until it is said to be done.

    One taker at a time. What was handed out and not said done when the process dies is handed out again.
    """

    def take(self, most: int, most_bytes: int) -> list[Handed]:
        """What has no row yet, oldest first: at most so many, and no more octets unless the first alone has more.

        Handed out once, until `later` gives it back. Empty when nothing waits. Never waits itself.
        """

    def take_bodies(self, most: int, most_bytes: int) -> list[Handed]:
        """The same of those whose row is in and whose body waits (`recorded`)."""

    def done(self, handed: Sequence[Handed]) -> None:
        """Settled for good; on disk before it returns. Its files are closed and given back."""

    def later(self, handed: Sequence[Handed], recorded: bool) -> None:
        """Not now. `recorded`: the row is in (on disk before it returns) and `take_bodies` hands it out from now on.

        Lets go of what it held in memory.
        """

    def set_aside(self, handed: Handed, code: str) -> None:
        """Poison: this one alone goes to the quarantine, whole, with the code why; it is not handed out again."""

    def keep_body(self, handed: Handed, code: str) -> None:
        """The store refused it for good: its row says `failed`, its octets go to the quarantine's bodies."""

    def depth(self) -> Depth:
        """How much waits. Cheap: asked every second."""

    def close(self) -> None:
        """Gives back what it holds open."""


@dataclass(frozen=True, slots=True)
class Put:
    """One body object to store. `key` stands below the store's prefix."""

    key: str
    source: Source
    sha256: str
    """Hex, of the octets in `source`."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """What the store said: a reference when it has the object, else why not."""

    ref: BodyRef | None
    refused: bool = False
    """True when trying again does not help (403, no such bucket)."""
    code: str | None = None
    """The vendor's error code when it is a plain word, else ours."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as its store lists it."""

    key: str
    """Below the store's prefix."""
    size_bytes: int
    stored_at: datetime


class BodyStore(Protocol):
    """A decided destination for body objects: gzip JSON documents under keys."""

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        """Stores each, in parallel within bounds; one result each, in order. Idempotent; one failing raises nothing."""

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        """The object as it was put (still gzip). Raises BodyNotFound, StoreUnavailable, StoreRefused.

        Raises BodyTooLarge for one of more than `most_bytes`, of which no more is read.
        """

    def delete(self, key: str) -> None:
        """Removes the object; nothing happens when there is none. Raises StoreUnavailable, StoreRefused."""

    def listed(self, since: date) -> Iterator[StoredObject]:
        """The objects of this day and later, by the day in their key (UTC), in no promised order.

        What does not lie where calls' bodies lie is passed over. Raises StoreUnavailable, StoreRefused.
        """

    def url(self, key: str) -> str:
        """How rows name the object of this key. Raises ValueError for a key that is none."""

    def close(self) -> None:
        """Gives back connections and threads."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A store that was decided on, and whose it is. The same one as long as nothing about it changes."""

    store: BodyStore
    config_id: UUID | None = None
    """What rows call it; None for that of BODY_STORE_URL."""


class Stores(Protocol):
    """Where bodies go, by caller. Every method may be called from any thread."""

    def of(self, caller: Caller) -> Place | None:
        """Where this caller's bodies go now; None: they are not kept. Cheap: asked for every call. Raises nothing."""

    def holding(self, org_id: UUID, config_id: UUID | None) -> BodyStore | None:
        """The store whose bodies rows of this organisation name so, to read from; None when nobody may ask it now."""

    def changes(self) -> int:
        """A number that grows with every change of what `of` answers."""

    def close(self) -> None:
        """Gives back all stores."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the ledger will not take, alone at fault."""

    id: UUID
    sqlstate: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row as the ledger has it, with the revision it carries."""

    record: Record
    revision: int


class ControlPlane(Protocol):
    """Butler, for one registration. What is said to it is of `egress.py`, and nothing else can be."""

    def ask(self, call: egress.Call, fields: frozenset[str] | None = None) -> object:
        """One call; its answer as parsed JSON (bounded in size and depth), or None where there is none.

        `fields`: what Butler takes of a record; None: the original's list. Raises ButlerUnavailable, ButlerDenied,
        ButlerRejected, ButlerNonsense. Whether what was sent took effect is known only when this returns.
        """

    def close(self) -> None:
        """Gives the connections back."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One call to Butler, as it is about to leave."""

    registration_id: UUID | None
    """None: a token is asked whose it is."""
    kind: str
    """The call's class in `egress.py`."""
    target: str
    """Path and query."""
    count: int
    body: bytes | None
    first_id: UUID | None = None
    """Of the records, in their order."""
    last_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Departed:
    """One call to Butler, as the log has it. All but `answer` and `has_body` is bound to all rows before."""

    number: int
    at: datetime
    registration_id: UUID | None
    kind: str
    target: str
    count: int
    bytes: int
    sha256: str
    """Of the body, hex; of nothing where there was none."""
    first_id: UUID | None
    last_id: UUID | None
    chain: str
    """HMAC-SHA-256, hex, over this row and the chain of the row before."""
    answer: str | None = None
    """`ok`, or the code of what went wrong; None: not known."""
    has_body: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Up to where the egress log was let go. `mac` binds all of it under the key of the chain."""

    number: int
    """Of the last row that went: numbers run from 1 without a gap, so it is also how many went."""
    chain: str
    """That row's: the first that stayed is bound to it."""
    first_at: datetime
    """When the first row of all was written."""
    last_at: datetime
    """When the last row that went was written."""
    made_at: datetime
    mac: str


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk over the whole egress log found."""

    first_broken: int | None
    """The first row that is not what was written, or was preceded by one that is gone; None: the log is whole."""
    checkpoint: Checkpoint | None = None
    """None: nothing was let go, or what says so is not ours."""
    forged: bool = False
    """There is a checkpoint that is not ours."""


class EgressLog(Protocol):
    """What left for Butler: one row a call, written before it leaves. Only added to; the oldest are let go in order.

    Every method raises LedgerUnavailable, SchemaTooOld.
    """

    def leaving(self, departure: Departure) -> int:
        """Keeps it; the row's number. When it raises, nothing may leave."""

    def answered(self, number: int, answer: str) -> None:
        """What came of it; said once, later words change nothing."""

    def newest(self, limit: int) -> list[Departed]:
        """The newest, oldest of them first."""

    def after(self, number: int, limit: int) -> list[Departed]:
        """Those behind this one, in their order."""

    def body(self, number: int) -> bytes | None:
        """What was sent, for the newest 200 that sent something; None for all others."""

    def walked(self) -> Walked:
        """Walks all rows, from the checkpoint on. What was cut off at the end of the log leaves no trace."""

    def let_go(self, before: datetime, limit: int, now: datetime) -> int:
        """Deletes the oldest rows, at most `limit`, none written at `before` or later; the newest row always stays.

        Only together with a checkpoint that says so. How many went; 0 also while another process is at it. Raises
        EgressLogBroken when one of them, or the one behind them, is not what was written: then none goes.
        """


class Ledger(Protocol):
    """One row a call, once."""

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        """Upserts by id in one statement; run twice or out of order it changes nothing (DESIGN 10).

        A batch that is refused is halved until the refused rows stand alone; the others are in. Ids may repeat within
        a batch: the one of higher rank wins. Raises LedgerUnavailable, SchemaTooOld: then nothing is known to be in.
        """

    def known(self, org_id: UUID, calls: Sequence[UUID]) -> set[UUID]:
        """Those of an organisation's that have a row, whatever it says. Raises LedgerUnavailable, SchemaTooOld."""

    def get(self, org_id: UUID, request_id: UUID) -> LedgerRow | None:
        """One row of an organisation, or None."""

    def newest(self, org_id: UUID, limit: int) -> list[LedgerRow]:
        """The newest rows of an organisation, newest first."""

    def ready(self) -> None:
        """Returns when the tables are there and new enough. Raises LedgerUnavailable, SchemaTooOld."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Rows that go out together: those of keys that a registration delivered, or those of keys made inside."""

    registration_id: UUID
    org_id: UUID
    """The registration's."""
    local: bool = False
    """Those of keys made inside: they go out while this registration is the only one, from its `local_from` on."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A revision of a row that does not go out, and the code why."""

    id: UUID
    revision: int
    code: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a lane."""

    rows: int = 0
    """Counted as far as was asked."""
    oldest_s: float = 0.0
    """Age of the oldest call that waits; 0 when none does."""


class Outbox(Protocol):
    """Rows of the ledger that Butler has not, in their newest revision (DESIGN 10). Safe for any number of replicas.

    A registration that is deregistered has no rows here. Times are the database's. Every method raises
    LedgerUnavailable, SchemaTooOld.
    """

    def claim(self, lane: Lane, limit: int, lease_s: float) -> list[LedgerRow]:
        """Rows that nobody else has claimed, newest first: half of the newest that wait, half of the oldest.

        They are this caller's until they are marked, set aside or released, or the lease is over. Two who have the
        same row do no harm: Butler takes a revision once.
        """

    def mark(self, lane: Lane, rows: Sequence[tuple[UUID, int]]) -> None:
        """Butler has these revisions; a later one waits on."""

    def set_aside(self, lane: Lane, rows: Sequence[SetAside]) -> None:
        """These revisions do not go out. A later one is tried again."""

    def release(self, lane: Lane, ids: Sequence[UUID]) -> None:
        """Not now: whoever claims next may have them."""

    def waiting(self, lane: Lane, most: int) -> Waiting:
        """How many wait, claimed ones too, counted up to `most`, and for how long. Cheap."""

    def keep_local(self, limit: int, managed: bool) -> int:
        """Says `local` of rows of keys made inside that go nowhere; of how many, at most `limit`.

        With exactly one registration and not `managed` those are the calls from before it, else all.
        """

    def backfill(self, since: datetime, limit: int) -> int | None:
        """Lets the only registration have the local rows of this time and later; how many are new, at most `limit`.

        Call it until it is 0. None: there is not exactly one registration.
        """

    def resend(self, since: datetime, limit: int) -> int:
        """Rows of this time and later that were set aside wait again; how many, at most `limit`."""


@dataclass(frozen=True, slots=True)
class BodyRow:
    """What a row says of its body."""

    id: UUID
    org_id: UUID
    requested_at: datetime
    body_state: BodyState
    key: str | None = None
    url: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    storage_config_id: UUID | None = None


class BodyBook(Protocol):
    """What rows say of bodies, over all organisations: for reconcile, and for who sweeps.

    Every method raises LedgerUnavailable, SchemaTooOld.
    """

    def since(self, moment: datetime, after: UUID | None, limit: int) -> list[BodyRow]:
        """Rows of calls from this moment on, in the order of their ids; `after`: those behind this one."""

    def of(self, ids: Sequence[UUID]) -> list[BodyRow]:
        """The rows of these calls, as far as there are any."""

    def stuck(self, before: datetime, limit: int) -> list[BodyRow]:
        """Rows of calls before this moment whose body is `pending`, oldest first."""

    def mark(self, rows: Sequence[BodyRow], state: BodyState) -> int:
        """Says `state` of the bodies whose rows say what they said here; how many it was.

        The one way in which a row's body goes back (DESIGN 10): what was stored and is there no more is `lost`.
        """


def key_name(text: str) -> str:
    """A key's name or description as it is kept: NUL and lone surrogates become U+FFFD, spaces around it go.

    Raises BadRequest unless 1 to 200 characters are left.
    """
    cleaned = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd").strip()
    if not 1 <= len(cleaned) <= MAX_KEY_NAME:
        raise BadRequest(f"A key's name has 1 to {MAX_KEY_NAME} characters.")
    return cleaned


DeprecatedModels = Literal["passthrough", "redirect", "warn"]
"""What becomes of a call for a model that its provider has given up."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One `mdm_sk_` key, of which only the hash is known."""

    id: UUID
    org_id: UUID
    key_hash: str
    """SHA-256 of the key, hex."""
    name: str
    is_active: bool
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    user_id: UUID | None = None
    registration_id: UUID | None = None
    revoked_at: datetime | None = None
    """For ever. A key that is not active and has none only rests: Butler may say that it is good again."""
    deprecated_model_behavior: DeprecatedModels = "passthrough"

    def caller(self) -> Caller:
        """Whom a call with this key is from."""
        return Caller(self.id, self.org_id, self.user_id, self.registration_id)


REGISTERED_ELSEWHERE = "This organisation is registered at another Butler; run: steward deregister"

ButlerWord = Literal["butler_unavailable", "butler_denied", "butler_rejected", "butler_nonsense"]
"""The code of a ButlerFault."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What Butler says of a token: whose it is."""

    steward_id: UUID
    org_id: UUID
    org_name: str
    record_fields: frozenset[str] | None = None
    """The fields of a record that it takes; None: it does not say."""


_FIRST_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Registration:
    """One organisation at one Butler. Keys and rows belong to `id`, which stays as long as the Butler does."""

    id: UUID
    org_id: UUID
    org_name: str
    steward_id: UUID
    """Who this installation is to that Butler."""
    butler_url: str
    registered_at: datetime
    """When a person inside registered it last."""
    deregistered_at: datetime | None = None
    local_from: UUID = _FIRST_ID
    """The first id of calls with keys made inside that may go out: those from before it stay (DESIGN 10)."""
    heard_at: datetime | None = None
    """When Butler last answered as it should, to half a minute."""
    fault: ButlerWord | None = None
    """Why it was not so the last time."""


SyncKind = Literal["api_keys"]
"""A set that is pulled by its changes."""

MAX_SYNCED_KEYS = 100_000
"""Of one registration; what is sent beyond is refused."""

NOT_REGISTERED = "This organisation is not registered any more."


@dataclass(frozen=True, slots=True)
class SentKey:
    """A key as Butler says it. Nothing of it holds before `apply_keys` compared it with what is known."""

    id: UUID
    key_hash: str
    """64 lower-case hex digits."""
    name: str
    is_active: bool
    created_at: datetime
    updated_at: datetime
    """By Butler's clock, which may say anything."""
    description: str | None = None
    user_id: UUID | None = None
    revoked_at: datetime | None = None
    deprecated_model_behavior: DeprecatedModels = "passthrough"


@dataclass(frozen=True, slots=True)
class AppliedKeys:
    """What became of a page."""

    watermark: datetime | None
    """The largest `updated_at` that was ever applied and was not later than now."""
    refused: tuple[UUID, ...] = ()
    """Ids of those that would take over another's key, or change whose a key is."""


@dataclass(frozen=True, slots=True)
class SyncState:
    """How far a set was read."""

    watermark: datetime | None
    read_at: datetime
    """Now, by the clock that decides: the database's."""
    last_full_at: datetime | None = None


class Turns(Protocol):
    """Which of all processes syncs a registration: one at a time, until it lets go or ends."""

    def hold(self, registration_id: UUID) -> bool:
        """Whether it is this one, from now on. Safe to repeat; never waits for another. Raises LedgerUnavailable."""

    def let_go(self, registration_id: UUID) -> None:
        """Another may. Nothing happens when it was not held. Raises LedgerUnavailable: then none is held any more."""

    def close(self) -> None:
        """Lets go of all."""


class Directory(TrustBook, Protocol):
    """Keys and the instance's own secrets. Each change in one transaction; what is a tenant's takes the organisation.

    What Butler wants and what was approved is the part of `trust_book.py`. Every method raises LedgerUnavailable when
    the database cannot say, SchemaTooOld when the tables are missing.
    """

    def create_key(self, org_id: UUID, name: str, key_hash: str, description: str | None = None) -> ApiKey:
        """A new key. The plaintext never comes here."""

    def list_keys(self, org_id: UUID) -> list[ApiKey]:
        """All keys of an organisation, newest first."""

    def revoke_key(self, org_id: UUID, key_id: UUID) -> ApiKey | None:
        """Revokes inside, for ever: nothing revives it. None when the organisation has no such key. Safe to repeat."""

    def find_key(self, key_hash: str) -> ApiKey | None:
        """The key with this hash, revoked or not. The one look-up without an organisation: it is how one is learnt."""

    def changed_keys(self) -> list[ApiKey]:
        """Keys with `updated_at` in the last 60 s by the database's clock: one round of the revocation poll."""

    def confirm_keys(self, key_hashes: Iterable[str]) -> list[ApiKey]:
        """The current state of many keys in one query: after a gap in the poll."""

    def register(self, said: Identity, butler_url: str, token: Secret[str]) -> Registration:
        """The organisation that this token is of, from now on at this Butler; the token rests sealed.

        Registered there already, it has the new token and its day. Raises LedgerFault, and changes nothing, when it is
        registered at another Butler: it must be deregistered first (SECURITY F8).
        """

    def registrations(self) -> list[Registration]:
        """All there ever were, by name."""

    def token(self, org_id: UUID, at: Registration | None = None) -> Secret[str] | None:
        """The token in force; None when there is none. Raises SealBroken for a row that was tampered with.

        Whoever sends it names the registration `at` whose address it goes to: one that took its place is another
        Butler's, and so is its token; and an address that somebody wrote into the database meanwhile gets none.
        """

    def deregister(self, org_id: UUID) -> Registration | None:
        """Forgets the token and lets its keys rest: they open no call any more. None: no such one. Safe to repeat."""

    def take_over(self, given: Sequence[tuple[Identity, Secret[str]]], butler_url: str) -> list[Registration]:
        """Managed mode: registers each in one transaction; those that are at this Butler already have the new token.

        One that is registered at another Butler is left out, as it is. An organisation stands in it once.
        """

    def heard(self, registration: Registration, fault: ButlerWord | None) -> None:
        """Butler answered (None), or why it did not. Written when it is news, or half a minute old."""

    def sync_state(self, registration: Registration, kind: SyncKind) -> SyncState:
        """How far it was read; no watermark: never."""

    def apply_keys(self, registration: Registration, keys: Sequence[SentKey]) -> AppliedKeys:
        """One page and its watermark in one transaction (SECURITY F8, F11).

        A row that is older than what Butler said last of the key changes nothing. What is dated later than now is
        applied as of now, and moves no watermark. A key never gets another hash, user, organisation or registration,
        a revoked one is never good again; who asks for that is refused, alone. Raises LedgerFault, and changes
        nothing, when the registration is none any more.
        """

    def rest_missing(self, registration: Registration, seen: Collection[UUID], since: datetime) -> int:
        """Ends a full pull that began `since`: its keys that were not seen rest, unless they changed meanwhile.

        How many. They are not revoked: sent again, they are good again.
        """

    def instance_secret(self, name: str) -> Secret[bytes]:
        """A random 32-octet secret of this installation, made at first migrate and kept sealed.

        Raises SealBroken under a wrong ENCRYPTION_KEY.
        """


@dataclass(frozen=True, slots=True)
class ViewToken:
    """What opens an organisation's bodies until it expires; of the token itself only the hash is known."""

    id: UUID
    org_id: UUID
    name: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ViewSession:
    """Somebody who signed in to the viewer, for as long as that is good."""

    id: UUID
    who: str
    """`token NAME`, or whom the OpenID provider named."""
    org_ids: tuple[UUID, ...]
    expires_at: datetime


class ViewAct(StrEnum):
    """What somebody did in the viewer."""

    SIGNED_IN = "signed_in"
    SIGNED_OUT = "signed_out"
    OPENED = "opened"
    DOWNLOADED = "downloaded"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ViewEntry:
    """One line of the viewer's book: who did what, on which call, from where."""

    act: ViewAct
    who: str
    peer: str
    """The address that asked; of a proxy, where one stands before the viewer."""
    session_id: UUID
    org_id: UUID | None = None
    request_id: UUID | None = None
    code: str | None = None
    """Why it was refused."""
    at: datetime | None = None
    """By the database's clock; set when it is written."""


class ViewBook(Protocol):
    """Tokens, sessions and the append-only account of the viewer. The database's clock alone says what has expired.

    Every method raises LedgerUnavailable when the database cannot say, SchemaTooOld when the tables are missing.
    """

    def create_token(self, org_id: UUID, name: str, token_hash: str, lasts: timedelta) -> ViewToken:
        """A new token. The plaintext never comes here."""

    def tokens(self) -> list[ViewToken]:
        """All there ever were, newest first: for the operators' command alone."""

    def revoke_token(self, token_id: UUID) -> ViewToken | None:
        """For ever, and every session that began with it ends. None: no such token. Safe to repeat."""

    def sign_in_with_token(self, token_hash: str, session_hash: str, peer: str, lasts: timedelta) -> ViewSession | None:
        """A new session, no longer than `lasts` or the token. None: no such token, expired or revoked. Noted."""

    def sign_in(self, who: str, org_ids: Sequence[UUID], session_hash: str, peer: str, lasts: timedelta) -> ViewSession:
        """A new session of somebody whom the OpenID provider named. Noted."""

    def session(self, session_hash: str) -> ViewSession | None:
        """The session with this hash while it is good: neither ended nor expired, its token neither."""

    def sign_out(self, session_hash: str, peer: str) -> None:
        """Ends it here, whatever the browser keeps. Noted. Safe to repeat."""

    def note(self, entry: ViewEntry) -> None:
        """Writes a line. Nothing is shown before it returns."""

    def notes(self, limit: int) -> list[ViewEntry]:
        """The newest lines, newest first: for the operators' command alone."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom an OpenID provider named, and in which groups."""

    who: str
    groups: frozenset[str]


class IdentityProvider(Protocol):
    """The customer's own OpenID provider."""

    def address(self, state: str, nonce: str, challenge: str) -> str:
        """Where a browser goes to sign in. Raises ProviderUnavailable."""

    def redeem(self, code: str, verifier: str, nonce: str) -> Person:
        """Who signed in. Raises ProviderUnavailable, SignInRefused: whatever in the answer is not exactly right."""

    def close(self) -> None:
        """Gives the connections back."""
