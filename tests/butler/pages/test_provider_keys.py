"""Provider keys: set and removed with the password, never shown."""

from __future__ import annotations

from steward.butler.nouns import Role
from tests.butler.pages.visits import House


def _set(house: House, role: Role, **fields: str) -> int:
    sent = {"provider": "anthropic", "scope": "org", "key": "sk-ant-the-whole-key-0123456789", **fields}
    return house.visit(role).send("/provider-keys", **sent).status_code


def test_a_key_is_set_and_only_its_end_is_shown(empty_house: House) -> None:
    assert _set(empty_house, Role.OWNER) == 303
    visit = empty_house.visit()
    page = visit.text("/provider-keys?saved=1")
    assert "the-whole-key" not in page and "anthropic" in page and "steward approve" in page
    assert "the-whole-key" not in visit.text("/audit")
    (sent,) = empty_house.bench.services.provider_keys.sent(empty_house.acme.owner.org_id)
    assert sent.key.reveal() == "sk-ant-the-whole-key-0123456789"


def test_a_member_sets_his_own_alone(empty_house: House) -> None:
    assert _set(empty_house, Role.MEMBER) == 403
    assert _set(empty_house, Role.MEMBER, scope="user") == 303
    (key,) = empty_house.bench.services.provider_keys.all(empty_house.acme.owner.org_id)
    assert key.user_id is not None


def test_what_is_no_key_of_a_provider_is_refused(empty_house: House) -> None:
    assert _set(empty_house, Role.OWNER, provider="nobody") == 422
    assert _set(empty_house, Role.OWNER, key="") == 422
    assert empty_house.bench.services.provider_keys.all(empty_house.acme.owner.org_id) == []


def test_removing_asks_and_names_the_key(empty_house: House) -> None:
    _set(empty_house, Role.OWNER)
    (key,) = empty_house.bench.services.provider_keys.all(empty_house.acme.owner.org_id)
    visit = empty_house.visit()
    assert f"Remove the anthropic key ending in {key.key_hint}?" in visit.words(f"/provider-keys?remove={key.id}")
    assert empty_house.visit(Role.MEMBER).send(f"/provider-keys/{key.id}/remove").status_code == 403
    visit.send(f"/provider-keys/{key.id}/remove")
    assert "No provider key" in visit.words("/provider-keys")
