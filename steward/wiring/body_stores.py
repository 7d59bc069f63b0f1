"""The bodies' stores: the adapter of each destination, and those that policy decides on call by call.

It decides on no destination: settings, or the directory's policy, did.
"""

from __future__ import annotations

from steward.destination import Destination, FilesDestination, GcsDestination, S3Destination
from steward.ports import BodyStore
from steward.settings import Settings
from steward.stores import DecidedStores
from steward.trust_book import TrustBook
from steward.wiring.database import trust_of


def decided_stores(settings: Settings, book: TrustBook) -> DecidedStores:
    """The stores that bodies go to. Raises SettingError; connects to nothing yet."""
    return DecidedStores(book, trust_of(settings), open_store(settings.body_store), open_decided)


def open_decided(destination: Destination) -> BodyStore:
    """The adapter of a place that policy decided on. Raises SettingError, ValueError; connects to nothing yet."""
    store = open_store(destination)
    assert store is not None
    return store


def open_store(destination: Destination | None) -> BodyStore | None:
    """The adapter for a decided destination."""
    match destination:
        case None:
            return None
        case S3Destination():
            from steward.adapters.s3 import S3BodyStore

            return S3BodyStore(destination)
        case GcsDestination():
            from steward.adapters.gcs import GcsBodyStore

            return GcsBodyStore(destination)
        case FilesDestination():
            from steward.adapters.files import FilesBodyStore

            return FilesBodyStore(destination)
