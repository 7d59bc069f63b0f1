"""infra/kubernetes: bounded pods, named ways in and out, and the list of hosts that the settings really allow."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from steward.butler.settings import TABLE as BUTLER_TABLE
from steward.egress_command import allowed_hosts
from steward.ports import Registration
from steward.setting_table import TABLE
from steward.settings import Settings
from tests.infra.manifests import FOLDER, KUSTOMIZE, Node, files, objects, one, pods, read
from tests.services import ENCRYPTION_KEY
from tests.services import settings as loaded

PROXY = FOLDER / "overlays" / "proxy"
ID = UUID(int=7)
INSIDE = {"database", "role", "proxy"}
"""Reached by address, and so by a NetworkPolicy's own words; roles come from there too but for `sts`."""
SETTINGS = {setting.name for setting in (*TABLE, *BUTLER_TABLE)}


def told() -> Settings:
    """The settings that the manifests make, with a Secret's in place of theirs."""
    said = dict(one("ConfigMap", "steward")["data"])
    return loaded(
        None, **{"PRICING_REMOTE_URL": feed(), **said, "AFTER_RESPONSE": "spool", "ENCRYPTION_KEY": ENCRYPTION_KEY}
    )


def feed() -> str:
    """Where prices come from when nothing is said."""
    (found,) = (setting.unset for setting in TABLE if setting.name == "PRICING_REMOTE_URL")
    assert found is not None
    return found


def wanted() -> set[str]:
    """Every name that `steward egress hosts` prints for them; the Butler is the one that may be registered at."""
    found = told()
    (butler,) = found.butler_urls_allow
    registered = Registration(ID, ID, "Acme", ID, butler, datetime.now(UTC), None)
    hosts = allowed_hosts(found, [registered])
    return {each.host for each in hosts if each.what not in INSIDE or each.host.startswith("sts.")}


def test_the_proxys_list_is_what_the_settings_allow() -> None:
    names = (PROXY / "hosts").read_text().split()
    patterns = (PROXY / "patterns").read_text().split()
    assert names == sorted(names)
    as_patterns = {"^" + re.escape(name).replace(r"\*", "[a-z0-9-]+") + "$" for name in wanted() if "*" in name}
    assert set(names) == {name for name in wanted() if "*" not in name}
    assert {each.replace(r"\-", "-") for each in as_patterns} == set(patterns)


def test_ciliums_list_is_what_the_settings_allow() -> None:
    (policy,) = objects("CiliumNetworkPolicy")
    looked_up, reached = policy["spec"]["egress"]
    names = {value for rule in reached["toFQDNs"] for value in rule.values()}
    assert names == wanted()
    for rule in reached["toFQDNs"]:
        assert ("matchPattern" in rule) is ("*" in "".join(rule.values()))
    (ports,) = looked_up["toPorts"]
    asked = {value for rule in ports["rules"]["dns"] for value in rule.values()}
    assert asked == wanted() | {told().postgres_host}
    assert reached["toPorts"] == [{"ports": [{"port": "443", "protocol": "TCP"}]}]


def test_the_proxy_takes_listed_names_on_443_alone_and_leads_nowhere_inside() -> None:
    lines = [line for line in (PROXY / "squid.conf").read_text().splitlines() if line.startswith("http_access")]
    assert lines == [
        "http_access deny !tunnel",
        "http_access deny !tls",
        "http_access deny !listed",
        "http_access deny inside",
        "http_access allow listed",
        "http_access deny all",
    ]


def test_the_steward_itself_goes_to_no_open_range() -> None:
    open_ = []
    for policy in objects("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr", "").endswith("/0"):
                    open_.append((policy["metadata"]["name"], len(peer["ipBlock"]["except"])))
            assert rule["ports"], policy["metadata"]["name"]
    assert open_ == [("egress-proxy", 6)]


def test_nobody_comes_in_but_who_is_named() -> None:
    everyone = one("NetworkPolicy", "nobody-unless-said")["spec"]
    assert everyone == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in objects("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"] and rule["ports"], policy["metadata"]["name"]


@pytest.mark.parametrize("name", sorted(pods()))
def test_every_pod_is_bounded(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


def test_the_role_that_owns_is_used_by_the_migration_alone() -> None:
    users = {}
    for name, pod in pods().items():
        (container,) = pod["containers"]
        secrets = {each["secretRef"]["name"] for each in container.get("envFrom", []) if "secretRef" in each}
        environ = {each["name"]: each["value"] for each in container.get("env", [])}
        users[name] = (environ.get("POSTGRES_USER"), secrets, container.get("args"))
    owner, serve = ("steward_owner", {"steward-owner"}), ("steward_serve", {"steward"})
    assert users["Job/steward-migrate"] == (*owner, ["migrate"])
    assert users["CronJob/steward-partitions"] == (*owner, ["migrate"])
    assert users["StatefulSet/steward"] == (*serve, ["serve"])
    assert users["Job/steward-settle-volume"] == (*serve, ["settle"])


def test_every_variable_is_a_setting_and_none_is_a_secret() -> None:
    secret = {setting.name for setting in (*TABLE, *BUTLER_TABLE) if setting.secret}
    for each in objects("ConfigMap"):
        assert each["data"].keys() <= SETTINGS - secret
    for name, pod in pods().items():
        for container in pod["containers"]:
            assert {each["name"] for each in container.get("env", [])} <= SETTINGS - secret, name
    assert not objects("Secret")


def test_a_pod_that_is_scaled_away_leaves_its_volume() -> None:
    stateful = one("StatefulSet", "steward")["spec"]
    assert stateful["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert "replicas" not in stateful  # or each `apply` would undo what the autoscaler said
    scaler = one("HorizontalPodAutoscaler", "steward")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "steward"}
    assert scaler["minReplicas"] >= 2 > one("PodDisruptionBudget", "steward")["spec"]["maxUnavailable"]
    (volume,) = (each for each in pods()["Job/steward-settle-volume"]["volumes"] if each["name"] == "spool")
    assert volume["persistentVolumeClaim"]["claimName"].startswith("spool-steward-")


def test_the_scraper_finds_the_operators_port_and_may_reach_it() -> None:
    monitor = one("ServiceMonitor", "steward")["spec"]
    service = one("Service", "steward")
    assert service["metadata"]["labels"] == monitor["selector"]["matchLabels"]
    ports = {each["name"]: each["port"] for each in service["spec"]["ports"]}
    (endpoint,) = monitor["endpoints"]
    (container,) = pods()["StatefulSet/steward"]["containers"]
    said = {each["name"]: each["value"] for each in container["env"]}
    assert (endpoint["path"], ports[endpoint["port"]]) == ("/metrics", int(said["OPS_PORT"]))
    reached = [port["port"] for rule in one("NetworkPolicy", "steward")["spec"]["ingress"] for port in rule["ports"]]
    assert ports[endpoint["port"]] in reached


def listed(folder: Path) -> set[Path]:
    """Every manifest that a kustomization leads to."""
    said: Node = yaml.safe_load((folder / KUSTOMIZE).read_text())
    found = set()
    for each in (*said.get("resources", []), *said.get("components", [])):
        path = (folder / each).resolve()
        found |= listed(path) if path.is_dir() else {path}
    return found


def test_every_manifest_is_led_to_by_a_kustomization() -> None:
    folders = [path.parent for path in FOLDER.rglob(KUSTOMIZE)]
    assert len(folders) == 6
    led = {path for folder in folders for path in listed(folder)}
    assert {path for path in files() if path.parent.name != "jobs"} == led


@pytest.mark.parametrize("overlay", ["base", "overlays/proxy", "overlays/cilium"])
def test_kustomize_makes_one_of_it(overlay: str) -> None:
    command = shutil.which("kubectl")
    if command is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([command, "kustomize", FOLDER / overlay], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    found = list(yaml.safe_load_all(made.stdout))
    assert len(found) >= len(read(FOLDER / "base" / "statefulset.yaml"))
    assert {each["metadata"].get("namespace", "steward") for each in found} == {"steward"}
