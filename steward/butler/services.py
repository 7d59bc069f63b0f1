"""Everything that the pages, the protocol and the API are handed: one store a noun, and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.engine import Engine

from steward.butler.database import Database
from steward.butler.passwords import Passwords
from steward.butler.store_audit import Audit
from steward.butler.store_explorer import Explorer
from steward.butler.store_keys import Keys
from steward.butler.store_managed import Managed
from steward.butler.store_metadata_keys import MetadataKeys
from steward.butler.store_overview import Overview
from steward.butler.store_people import People
from steward.butler.store_provider_keys import ProviderKeys
from steward.butler.store_records import Records
from steward.butler.store_sessions import Sessions
from steward.butler.store_stewards import Stewards
from steward.butler.store_storage import Storage
from steward.butler.store_work import Work
from steward.seal import Keyring


@dataclass(frozen=True, slots=True)
class Services:
    """The stores, each over the same database; and what of the settings a page needs to know."""

    database: Database
    people: People
    sessions: Sessions
    keys: Keys
    stewards: Stewards
    storage: Storage
    provider_keys: ProviderKeys
    metadata_keys: MetadataKeys
    records: Records
    explorer: Explorer
    overview: Overview
    work: Work
    managed: Managed
    audit: Audit
    now: Callable[[], datetime]
    public_url: str
    """Where browsers and Stewards reach this Butler; cookies are Secure unless it is plain http on loopback."""
    steward_view_url: str | None
    """Where the Steward's own viewer is reached inside the network."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are reached."""

    public_url: str
    steward_view_url: str | None = None


def over(
    engine: Engine,
    keyring: Keyring,
    site: Site,
    passwords: Passwords | None = None,
    now: Callable[[], datetime] = _utc_now,
) -> Services:
    """The services over an open database."""
    database, hasher = Database(engine), Passwords() if passwords is None else passwords
    return Services(
        database=database,
        people=People(database, hasher),
        sessions=Sessions(database, hasher),
        keys=Keys(database),
        stewards=Stewards(database),
        storage=Storage(database, keyring),
        provider_keys=ProviderKeys(database, keyring),
        metadata_keys=MetadataKeys(database),
        records=Records(database),
        explorer=Explorer(database),
        overview=Overview(database),
        work=Work(database),
        managed=Managed(database, keyring),
        audit=Audit(database),
        now=now,
        public_url=site.public_url,
        steward_view_url=site.steward_view_url,
    )
