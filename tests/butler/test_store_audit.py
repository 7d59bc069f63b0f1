"""The audit log: only added to, read by page, person and object, and told to owners."""

from __future__ import annotations

import pytest

from steward.butler.database import RowsRefused
from steward.butler.store_audit import AuditFilter
from steward.errors import LedgerFault
from tests.servers.butler import ButlerBench


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE butler.audit_log SET actor_email = 'nobody'",
        "DELETE FROM butler.audit_log",
        "TRUNCATE butler.audit_log",
    ],
)
def test_the_database_refuses_to_alter_it(butler: ButlerBench, statement: str) -> None:
    from sqlalchemy import text

    acme = butler.tenant("acme")
    before = butler.services.audit.page(acme.bearer.org_id, AuditFilter())
    with pytest.raises((RowsRefused, LedgerFault)), butler.services.database.change() as connection:
        connection.execute(text(statement))
    assert butler.services.audit.page(acme.bearer.org_id, AuditFilter()) == before


def test_pages_and_filters(butler: ButlerBench) -> None:
    acme, audit = butler.tenant("acme"), butler.services.audit
    for number in range(5):
        butler.services.keys.create(acme.owner, f"k{number}")
    first = audit.page(acme.bearer.org_id, AuditFilter(object_type="api_key"), 3)
    rest = audit.page(acme.bearer.org_id, AuditFilter((first[-1].at, first[-1].id), object_type="api_key"), 3)
    assert [each.object_name for each in first + rest] == ["k4", "k3", "k2", "k1", "k0"]
    assert audit.page(acme.bearer.org_id, AuditFilter(actor="nobody")) == []
    assert audit.actors(acme.bearer.org_id) == [acme.owner.email]


def test_another_organisation_sees_nothing_of_it(butler: ButlerBench) -> None:
    acme, other = butler.tenant("acme"), butler.tenant("other")
    seen = butler.services.audit.page(other.bearer.org_id, AuditFilter())
    assert {each.actor_email for each in seen} == {other.owner.email}
    assert acme.owner.user_id is not None
    assert butler.services.audit.notices(other.bearer.org_id, acme.owner.user_id) == []
