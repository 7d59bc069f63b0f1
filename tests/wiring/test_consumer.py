"""What a host hands its batches to, put together: a database, a store and a queue's name, and nothing runs beside."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from steward.errors import SettingError
from steward.exchange import LOCAL_ORG, BodyState
from steward.seal import Keyring
from steward.stores import OneStore
from steward.wiring.body_stores import open_store
from steward.wiring.consumer import build_consumer
from steward.wiring.queues import queue_claims
from steward.wiring.relay import build
from tests.messages import LARGE, call
from tests.servers.postgres import Database
from tests.services import settings

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/calls"


def test_it_settles_what_a_relay_with_the_same_settings_sent(postgres: Database, tmp_path: Path) -> None:
    given = settings(postgres, AFTER_RESPONSE="sqs", SQS_QUEUE_URL=URL, BODY_STORE_URL=tmp_path.as_uri())
    stores = OneStore(open_store(given.body_store))
    claims = queue_claims(given, postgres.keyring, stores, lambda: None)
    calls = [call(), call(LARGE)]
    texts = []
    for one in calls:
        letter = claims.message(one)
        texts.append((str(one.id), letter.text() or ""))
        letter.close()
    before = set(threading.enumerate())
    consumer = build_consumer(given)
    assert set(threading.enumerate()) == before
    assert consumer.settle([*texts, ("forged", "nonsense")]) == {
        **{str(one.id): None for one in calls},
        "forged": "not_a_message",
    }
    assert consumer.settle(texts) == {str(one.id): None for one in calls}
    services = build(replace(given, after_response="inline"))
    for one in calls:
        row = services.ledger.get(LOCAL_ORG, one.id)
        assert row is not None and row.record.body_state is BodyState.STORED
    services.close()
    consumer.close()
    stores.close()


def test_bodies_find_their_store_though_no_price_list_can_be_read(postgres: Database, tmp_path: Path) -> None:
    given = settings(
        postgres,
        **{"AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": URL, "BODY_STORE_URL": tmp_path.as_uri()},
        PRICING_REMOTE_URL="https://127.0.0.1:1/prices.json",
    )
    postgres.run("DROP TABLE price_list")
    one = call()
    one.caller = replace(one.caller, org_id=UUID(int=7))  # whose place only the directory knows
    consumer = build_consumer(given)
    letter = queue_claims(given, postgres.keyring, OneStore(None), lambda: None).message(one)
    assert consumer.settle([("1", letter.text() or "")]) == {"1": None}
    consumer.close()


def test_without_a_queue_it_is_not_put_together() -> None:
    with pytest.raises(SettingError, match="AFTER_RESPONSE"):
        build_consumer(settings())


def test_the_database_away_hands_every_message_back(tmp_path: Path) -> None:
    given = settings(
        **{"AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": URL, "BODY_STORE_URL": tmp_path.as_uri()},
        **{"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"},
    )
    consumer = build_consumer(given)
    keyring = Keyring(given.needed_encryption_key())
    letter = queue_claims(given, keyring, OneStore(None), lambda: None).message(call())
    assert consumer.settle([("1", letter.text() or ""), ("2", "nonsense")]) == {
        "1": "ledger_unavailable",
        "2": "not_a_message",
    }
    consumer.close()
