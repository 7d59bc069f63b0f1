"""infra/compose.yaml: read as YAML and against the words of compose's schema that it uses; no engine is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from steward.butler.settings import load as load_butler
from steward.settings import load
from tests.infra.manifests import ROOT

FILE = ROOT / "infra" / "compose.yaml"
OURS = ("migrate", "steward", "butler-migrate", "butler")
KEYS = {
    *("image", "build", "command", "entrypoint", "environment", "secrets", "volumes", "ports", "networks", "user"),
    *("network_mode", "depends_on", "healthcheck", "restart", "read_only", "tmpfs", "cap_drop", "security_opt"),
    "stop_grace_period",
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def environ(name: str, folder: Path) -> dict[str, str]:
    """A service's environment, its secrets in files of this machine."""
    for secret in compose()["secrets"]:
        (folder / secret).write_text("0123456789abcdef" * 4)
    said = services()[name]["environment"]
    return {key: str(value).replace("/run/secrets", str(folder)) for key, value in said.items()}


def test_its_words_are_composes() -> None:
    assert compose().keys() <= {"name", "services", "networks", "volumes", "secrets", "x-ours", "x-settings"}
    for name, each in services().items():
        assert each.keys() <= KEYS, name
        assert ("image" in each) and each.keys() & {"networks", "network_mode"}, name
        assert not {"networks", "network_mode"} <= each.keys(), name
        for other, how in each.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS
            assert "healthcheck" in services()[other] or how["condition"] != "service_healthy"
        for secret in each.get("secrets", []):
            assert secret in compose()["secrets"]
        for volume in each.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or (FILE.parent / source).is_file(), volume


@pytest.mark.parametrize("name", ["steward", "migrate"])
def test_the_steward_takes_its_environment(name: str, tmp_path: Path) -> None:
    told = load(environ(name, tmp_path), None)
    assert told.warnings == ()
    assert told.postgres_user == {"steward": "steward_serve", "migrate": "steward_owner"}[name]


@pytest.mark.parametrize("name", ["butler", "butler-migrate"])
def test_butler_takes_its_environment(name: str, tmp_path: Path) -> None:
    told = load_butler(environ(name, tmp_path), None)
    assert told.warnings == ()
    assert told.host == "127.0.0.1"


def test_no_secret_stands_in_it() -> None:
    for name, each in services().items():
        for key, value in each.get("environment", {}).items():
            if any(word in key for word in ("PASSWORD", "SECRET", "KEY")) and key != "AWS_ACCESS_KEY_ID":
                assert key.endswith("_FILE") and value.startswith("/run/secrets/"), (name, key)
    assert "infra/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_nothing_is_reached_from_outside_this_machine() -> None:
    for name, each in services().items():
        for port in each.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    assert services()["steward"]["environment"]["HOST"] == "127.0.0.1"


@pytest.mark.parametrize("name", OURS)
def test_ours_are_bounded_and_built_here(name: str) -> None:
    each = services()[name]
    assert (each["read_only"], each["cap_drop"], each["user"]) == (True, ["ALL"], "10001:10001")
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert each["build"] == {"context": ".."}


def test_what_is_not_ours_is_named_by_version() -> None:
    others = {each["image"] for name, each in services().items() if name not in OURS}
    assert len(others) == 2
    for image in others:
        name, _, tag = image.partition(":")
        assert name and any(digit.isdigit() for digit in tag) and tag != "latest"


def test_the_spool_has_a_volume_and_time_to_stop(tmp_path: Path) -> None:
    told = load(environ("steward", tmp_path), None)
    (mounted,) = (volume.split(":")[1] for volume in services()["steward"]["volumes"])
    assert Path(mounted) in told.spool_dir.parents
    given = float(services()["steward"]["stop_grace_period"].removesuffix("s"))
    assert given > told.shutdown_delay_s + told.shutdown_grace_s + 10
