"""The price book of the settings, with their aliases."""

from __future__ import annotations

from pathlib import Path

import pytest

from steward.errors import SettingError
from steward.wiring.prices import price_book
from steward.wiring.relay import build
from tests.services import settings


def test_an_alias_file_that_is_none_is_one_line_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text('{"my-deployment": "gpt-4o"}')
    assert price_book(settings(PRICING_ALIASES_FILE=str(file))).knows("my-deployment")
    found = settings(PRICING_ALIASES_FILE=str(file))
    for content in (b"", b"CANARY", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(SettingError) as refused:
            build(found)
        assert refused.value.message.startswith("PRICING_ALIASES_FILE")
        assert "CANARY" not in refused.value.message
    file.unlink()
    with pytest.raises(SettingError, match="PRICING_ALIASES_FILE"):
        build(found)
