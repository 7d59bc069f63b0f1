"""Keys: revoked for ever, never moved, and a time of change that only grows, however many change at once."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from sqlalchemy import text

from steward.butler.errors import NotThere
from steward.butler.store_keys import KeyPlace
from steward.errors import LedgerFault
from tests.servers.butler import ButlerBench


def test_a_revoked_key_stays_revoked(butler: ButlerBench) -> None:
    acme, keys = butler.tenant("acme"), butler.services.keys
    key_id = keys.create(acme.owner, "k").id
    keys.revoke(acme.owner, key_id)
    revoked = keys.get(acme.bearer.org_id, key_id)
    keys.revoke(acme.owner, key_id)
    assert keys.get(acme.bearer.org_id, key_id) == revoked
    with pytest.raises(NotThere):
        keys.behave(acme.owner, key_id, "warn")
    with pytest.raises(NotThere):
        keys.revoke(acme.owner, uuid4())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE butler.api_keys SET is_active = true, revoked_at = NULL",
        "UPDATE butler.api_keys SET key_hash = repeat('a', 64)",
        "UPDATE butler.api_keys SET user_id = NULL",
        "DELETE FROM butler.api_keys",
        "TRUNCATE butler.api_keys",
    ],
)
def test_the_database_refuses_to_revive_move_or_delete_one(butler: ButlerBench, statement: str) -> None:
    acme, keys = butler.tenant("acme"), butler.services.keys
    keys.revoke(acme.owner, keys.create(acme.owner, "k").id)
    before = keys.changed(acme.bearer.org_id, None, 10)
    with pytest.raises(LedgerFault), butler.services.database.change() as connection:
        connection.execute(text(statement))
    assert keys.changed(acme.bearer.org_id, None, 10) == before


def test_times_of_change_are_unique_and_grow_however_many_write_at_once(butler: ButlerBench) -> None:
    acme, keys = butler.tenant("acme"), butler.services.keys
    seen: list[object] = []

    def write() -> None:
        for number in range(10):
            keys.create(acme.owner, f"k{number}")

    writers = [threading.Thread(target=write) for _ in range(3)]
    for each in writers:
        each.start()
    after = None
    while any(each.is_alive() for each in writers) or len(seen) < 30:
        page = keys.changed(acme.bearer.org_id, after, 4)
        seen += [key.id for key in page]
        after = page[-1].updated_at if page else after
    assert len(seen) == len(set(seen)) == 30


def test_the_name_and_the_use_of_each(butler: ButlerBench) -> None:
    acme, keys = butler.tenant("acme"), butler.services.keys
    made = keys.create(acme.owner, "checkout", "the shop", "redirect")
    assert keys.names(acme.bearer.org_id) == {made.id: "checkout"}
    (use,) = keys.all(acme.bearer.org_id, butler.clock())
    assert (use.key.description, use.key.deprecated_model_behavior, use.user_email) == (
        "the shop",
        "redirect",
        acme.owner.email,
    )
    assert (use.calls, use.last_used_at) == (0, None)


def test_a_page_is_of_one_organisation_and_follows_the_place_before_it(butler: ButlerBench) -> None:
    acme, other, keys = butler.tenant("acme"), butler.tenant("other"), butler.services.keys
    names = [f"k{number}" for number in range(5)]
    for name in names:
        keys.create(acme.owner, name)
    keys.create(other.owner, "k-theirs")
    first = keys.page(acme.bearer.org_id, butler.clock(), limit=3)
    last = first[-1].key
    rest = keys.page(acme.bearer.org_id, butler.clock(), "K", KeyPlace(last.is_active, last.created_at, last.id), 3)
    assert [use.key.name for use in [*first, *rest]] == names[::-1]
    assert [*first, *rest] == keys.all(acme.bearer.org_id, butler.clock())
