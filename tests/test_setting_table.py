"""The table of settings: no name twice, no secret that prints."""

from __future__ import annotations

import re

from steward.setting_table import TABLE
from steward.words import Secret


def test_each_name_stands_once_and_is_a_variables_name() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in names)


def test_each_default_is_a_value_its_own_parser_takes() -> None:
    taken = {row.name: row.parse(row.unset) for row in TABLE if row.unset is not None}
    assert taken["PORT"] == 7680
    assert taken["CAPTURE_MAX_BYTES"] == 256 << 20


def test_what_sounds_like_a_secret_is_one() -> None:
    for row in TABLE:
        if re.search(r"KEY$|PASSWORD|TOKEN|SECRET", row.name):
            assert row.secret, row.name


def test_secrets_are_masked_by_their_type() -> None:
    given = {
        "ENCRYPTION_KEY": "0123456789abcdef" * 4,
        "HTTPS_PROXY": "proxy:1",
        "MDM_STEWARD_TOKEN": "mdm_st_" + "x" * 32,
        "MANAGED_MASTER_TOKEN": "mdm_st_" + "x" * 32,
    }
    for row in TABLE:
        if row.secret:
            assert isinstance(row.parse(given.get(row.name, "x" * 40)), Secret)
