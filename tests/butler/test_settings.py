"""Butler's settings: defaults, the Steward's database where nothing else is said, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from steward.butler.settings import TABLE, load
from steward.errors import SettingError
from steward.settings import load as load_stewards

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32)).hex()
CANARY = "CANARY-1d0e"


def test_without_a_word_it_listens_on_loopback() -> None:
    settings = load({}, None)
    assert (settings.host, settings.port, settings.public_url) == ("127.0.0.1", 7690, "http://127.0.0.1:7690")
    assert (settings.postgres_host, settings.postgres_db, settings.postgres_sslmode) == (
        "localhost",
        "steward",
        "disable",
    )
    assert settings.log_level == "info"
    with pytest.raises(SettingError, match="BUTLER_ENCRYPTION_KEY: not set"):
        settings.needed_encryption_key()


def test_its_own_database_wins_over_the_stewards() -> None:
    given = {"POSTGRES_HOST": "/one", "POSTGRES_DB": "one", "BUTLER_POSTGRES_DB": "two", "LOG_LEVEL": "error"}
    settings = load(given, None)
    assert (settings.postgres_host, settings.postgres_db, settings.log_level) == ("/one", "two", "error")
    assert load_stewards(given, None).warnings == ()


def test_every_secret_may_be_a_file_and_none_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for setting in [each for each in TABLE if each.secret]:
        value = {"BUTLER_ENCRYPTION_KEY": KEY, "BUTLER_MANAGED_TOKEN": "mdm_st_" + "x" * 43}.get(setting.name, CANARY)
        file.write_text(f"{value}\n")
        settings = load({f"{setting.name}_FILE": str(file)}, None)
        assert value not in repr(settings)
        (line,) = [each for each in settings.shown if each.name == setting.name]
        assert (line.value, line.source) == ("***", "file")


WRONG = {
    "BUTLER_ENCRYPTION_KEY": CANARY,
    "BUTLER_POSTGRES_HOST": f"{CANARY} x",
    "BUTLER_POSTGRES_PORT": CANARY,
    "BUTLER_POSTGRES_USER": f"{CANARY}\n",
    "BUTLER_POSTGRES_PASSWORD": f"{CANARY}\0",
    "BUTLER_POSTGRES_DB": f"{CANARY}\n",
    "BUTLER_POSTGRES_SSLMODE": CANARY,
    "BUTLER_POSTGRES_SSLROOTCERT": f"/{CANARY}",
    "BUTLER_POSTGRES_MAX_CONNS": "0",
    "BUTLER_HOST": f"{CANARY} x",
    "BUTLER_PORT": "65536",
    "BUTLER_PUBLIC_URL": f"http://{CANARY}.example",
    "BUTLER_TRUSTED_PROXIES": f"{CANARY}\n",
    "BUTLER_STEWARD_VIEW_URL": f"ftp://{CANARY}",
    "BUTLER_MANAGED_TOKEN": CANARY,
    "BUTLER_LOG_LEVEL": CANARY,
}


def test_every_setting_has_a_wrong_value() -> None:
    assert set(WRONG) == {setting.name for setting in TABLE}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_and_not_repeated(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({name: WRONG[name]}, None)
    assert caught.value.message.startswith(f"{name}: ")
    assert CANARY not in caught.value.message


def test_a_butler_that_others_reach_needs_its_https_address() -> None:
    with pytest.raises(SettingError, match="BUTLER_PUBLIC_URL"):
        load({"BUTLER_HOST": "0.0.0.0"}, None)
    with pytest.raises(SettingError, match="BUTLER_PUBLIC_URL"):
        load({"BUTLER_PUBLIC_URL": "https://example.com/butler"}, None)
    settings = load({"BUTLER_HOST": "0.0.0.0", "BUTLER_PUBLIC_URL": "https://butler.example.com/"}, None)
    assert settings.public_url == "https://butler.example.com"


def test_the_readme_names_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [setting.name for setting in TABLE if f"`{setting.name}`" not in readme] == []
