"""Tokens that sign in to RDS: octet for octet what AWS's own client makes, and never seen."""

from __future__ import annotations

import pickle

import botocore.session
import pytest
from botocore.signers import generate_db_auth_token  # type: ignore[attr-defined]

from steward.adapters.rds_token import RdsToken
from steward.errors import LedgerUnavailable, SettingError
from steward.words import Secret
from tests.servers.waiting import eventually

HOST = "steward.abc123.eu-central-1.rds.amazonaws.com"


def _session(region: str | None = "us-west-2") -> botocore.session.Session:
    defaults = {
        name: (None, None, default, None)
        for name, (_, _, default, _) in botocore.session.Session.SESSION_VARIABLES.items()
    }
    session = botocore.session.Session(session_vars=defaults | {"region": (None, None, region, None)})
    session.set_credentials("AKIAEXAMPLE", "a secret of a role", "its session")
    return session


def test_it_is_what_the_vendors_own_client_makes() -> None:
    client = _session().create_client("rds", region_name="eu-central-1")
    ours = RdsToken(HOST, 5432, "steward app", _session())

    def same() -> bool:  # both carry the second in which they were made
        return ours().reveal() == generate_db_auth_token(client, HOST, 5432, "steward app")

    eventually(same, 10)
    assert ours().reveal().startswith(f"{HOST}:5432/?Action=connect&DBUser=steward")


def test_each_is_new_and_masked() -> None:
    token = RdsToken(HOST, 5432, "steward", _session())()
    assert isinstance(token, Secret) and "X-Amz" not in f"{token!r}{token}"
    with pytest.raises(TypeError):
        pickle.dumps(token)


def test_the_region_is_the_hosts_own_where_the_name_says_none() -> None:
    assert "us-west-2%2Frds-db" in RdsToken("db.internal", 5432, "steward", _session())().reveal()
    assert "eu-central-1%2Frds-db" in RdsToken(HOST, 5432, "steward", _session())().reveal()


def test_without_a_role_or_a_region_it_says_so() -> None:
    alone = _session()
    alone.register_component("credential_provider", botocore.credentials.CredentialResolver([]))
    alone._credentials = None  # noqa: SLF001 - a host without a role
    with pytest.raises(LedgerUnavailable, match="POSTGRES_IAM_AUTH"):
        RdsToken(HOST, 5432, "steward", alone)()
    with pytest.raises(LedgerUnavailable, match="region"):
        RdsToken("db.internal", 5432, "steward", _session(None))()


def test_a_folder_is_no_database_of_theirs() -> None:
    with pytest.raises(SettingError, match="POSTGRES_IAM_AUTH"):
        RdsToken("/run/postgresql", 5432, "steward")
