"""Provider keys: one a provider and owner, opened for its own row alone."""

from __future__ import annotations

from uuid import uuid4

import pytest

from steward.butler.errors import NotThere
from steward.errors import SealBroken
from steward.words import Secret
from tests.servers.butler import ButlerBench


def test_a_new_key_takes_the_place_of_the_one_before(butler: ButlerBench) -> None:
    acme, keys = butler.tenant("acme"), butler.services.provider_keys
    first = keys.set(acme.owner, "openai", Secret("sk-first-1111"))
    again = keys.set(acme.owner, "openai", Secret("sk-second-2222"))
    personal = keys.set(acme.owner, "openai", Secret("sk-mine-3333"), personal=True)
    assert first == again != personal
    assert {each.key_hint for each in keys.all(acme.bearer.org_id)} == {"2222", "3333"}
    assert {each.key.reveal() for each in keys.sent(acme.bearer.org_id)} == {"sk-second-2222", "sk-mine-3333"}
    assert (keys.owner(acme.bearer.org_id, first), keys.owner(acme.bearer.org_id, personal)) == (
        None,
        acme.owner.user_id,
    )
    keys.remove(acme.owner, first)
    with pytest.raises(NotThere):
        keys.remove(acme.owner, first)
    with pytest.raises(NotThere):
        keys.owner(acme.bearer.org_id, uuid4())


@pytest.mark.parametrize(
    "moved",
    [
        "UPDATE butler.provider_keys SET provider = 'gemini'",
        "UPDATE butler.provider_keys SET user_id = (SELECT id FROM butler.users LIMIT 1)",
        "UPDATE butler.provider_keys SET id = gen_random_uuid()",
        "UPDATE butler.provider_keys SET sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1)",
    ],
)
def test_a_row_that_was_moved_does_not_open(butler: ButlerBench, moved: str) -> None:
    acme, keys = butler.tenant("acme"), butler.services.provider_keys
    keys.set(acme.owner, "openai", Secret("sk-first-1111"))
    assert len(keys.sent(acme.bearer.org_id)) == 1
    butler.postgres.run(moved)
    with pytest.raises(SealBroken):
        keys.sent(acme.bearer.org_id)
