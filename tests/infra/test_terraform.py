"""infra/aws and infra/gcp, read as text: what they may never say. `terraform` itself is not needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steward.rewrite import of_the_front
from steward.setting_table import TABLE
from steward.values import field_names

FOLDER = Path(__file__).parents[2] / "infra"
SETTINGS = {setting.name: setting for setting in TABLE}


def text(cloud: str) -> str:
    """All of it, without comments."""
    found = "\n".join(path.read_text() for path in sorted((FOLDER / cloud).glob("*.tf")))
    return re.sub(r"(?m)(^|\s)#.*$", "", found)


def block(cloud: str, head: str) -> str:
    """From a block's head to its closing brace."""
    return text(cloud).split(f"{head} {{\n", 1)[1].split("\n}\n", 1)[0]


def statements(cloud: str) -> list[str]:
    """Each statement of each policy document."""
    return re.findall(r"(?ms)^  (?:  )?(?:statement|content) \{.*?^  (?:  )?\}$", text(cloud))


def test_no_action_is_a_wildcard_and_no_resource_but_where_aws_knows_no_smaller() -> None:
    found = [each for each in statements("aws") if "actions" in each]
    assert len(found) > 10
    wild = []
    for each in found:
        (actions,) = re.findall(r"(?s)actions\s*=\s*\[(.*?)\]", each)
        assert "*" not in actions, each
        if re.search(r"resources\s*=\s*\[\"\*\"\]", each):
            wild += re.findall(r'sid\s*=\s*"(\w+)"', each)
    assert sorted(wild) == ["LogsSealTheirOwn", "SignInAtTheRegistry", "TheAccountDecidesByItsRoles"]


@pytest.mark.parametrize(
    ("document", "actions"),
    [
        ("relay", {"s3:PutObject", "sqs:SendMessage", "kms:Decrypt", "kms:GenerateDataKey"}),
        (
            "settle",
            {
                *("s3:PutObject", "s3:GetObject", "kms:Decrypt", "kms:GenerateDataKey", "sqs:ReceiveMessage"),
                *("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"),
            },
        ),
    ],
)
def test_a_task_may_what_it_does(document: str, actions: set[str]) -> None:
    said = block("aws", f'data "aws_iam_policy_document" "{document}"')
    assert set(re.findall(r'"((?:s3|sqs|kms):[A-Za-z]+)"', said)) - {"kms:ViaService"} == actions


def test_a_message_as_text_goes_into_the_queue() -> None:
    (said,) = re.findall(r'QUEUE_MESSAGE_MAX_BYTES = "(\w+)"', text("aws"))
    (taken,) = re.findall(r"max_message_size\s*=\s*(\d+)", text("aws"))
    most = SETTINGS["QUEUE_MESSAGE_MAX_BYTES"].parse(said)
    assert isinstance(most, int)
    assert most * 4 / 3 + 8192 < int(taken)


def test_on_aws_the_door_is_inside_and_https() -> None:
    assert re.search(r"\binternal\s*=\s*true", block("aws", 'resource "aws_lb" "this"'))
    assert re.search(r'protocol\s*=\s*"HTTPS"', block("aws", 'resource "aws_lb_listener" "https"'))
    assert len(re.findall(r'resource "aws_lb_listener"', text("aws"))) == 1
    ingress = re.findall(r'(?s)resource "aws_vpc_security_group_ingress_rule".*?\n}', text("aws"))
    assert len(ingress) == 4
    for each in ingress:
        assert "0.0.0.0/0" not in each
        assert "cidr_ipv4" not in each or "each.value" in each
    assert not re.search(r"\n\s+(ingress|egress) \{", text("aws"))
    assert "publicly_accessible                 = false" in text("aws")
    assert len(re.findall(r"assign_public_ip = false", text("aws"))) == 2


def test_what_the_load_balancer_adds_goes_to_no_provider() -> None:
    (named,) = re.findall(r'FRONT_HEADERS\s*=\s*"(.*?)"', text("aws"))
    dropped = of_the_front(field_names(named))
    assert dropped is not None
    added = (b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto", b"x-amzn-trace-id", b"x-amzn-oidc-data")
    assert all(map(dropped, added))
    assert not any(map(dropped, (b"authorization", b"x-request-id", b"content-type", b"traceparent")))


def test_on_google_the_doors_are_inside_and_for_named_callers() -> None:
    services = re.findall(r'(?s)resource "google_cloud_run_v2_service" "\w+" \{.*?\n}', text("gcp"))
    assert len(services) == 1
    assert re.search(r"for_each\s*=\s*local\.doors", services[0])
    assert re.findall(r"(?m)^    (\w+) = \{$", text("gcp").split("doors = {", 1)[1].split("\n  }\n", 1)[0]) == [
        *("relay", "settle"),
    ]
    for each in services:
        assert re.search(r'ingress\s*=\s*"INGRESS_TRAFFIC_INTERNAL_ONLY"', each)
    assert re.search(r'ingress_settings\s*=\s*"ALLOW_INTERNAL_ONLY"', text("gcp"))
    assert re.search(r"ipv4_enabled\s*=\s*false", text("gcp"))
    members = re.findall(r"\bmember\s*=\s*(\S+)", text("gcp"))
    assert len(members) > 8
    assert not [each for each in members if "allUsers" in each or "allAuthenticatedUsers" in each]
    assert '!contains(var.callers, "allUsers")' in text("gcp")


def test_on_google_tasks_are_signed_for_one_account_and_one_audience() -> None:
    tokens = re.findall(r"(?s)oidc_token \{(.*?)\}", text("gcp"))
    assert len(tokens) == 2
    for each in tokens:
        assert 'service_account_email = google_service_account.this["tasks"].email' in each
        assert "audience              = local.audience" in each
    assert re.findall(r"push_endpoint.*(/tasks/\w+)|uri .*(/tasks/\w+)", text("gcp")) == [
        ("/tasks/settle", ""),
        ("", "/tasks/scheduled"),
    ]
    settle = text("gcp").split("    settle = {", 1)[1].split("\n    }", 1)[0]
    assert re.search(r"TASKS_AUDIENCE\s*=\s*local\.audience", settle)
    assert re.search(r"audiences\s*=\s*\[local\.audience\]", settle)
    assert len(re.findall(r"TASKS_AUDIENCE", text("gcp"))) == 1


def test_on_google_nobody_lists_or_deletes_objects() -> None:
    permissions = {each for said in re.findall(r"permissions = \[(.*?)\]", text("gcp")) for each in said.split(", ")}
    assert permissions == {'"storage.objects.create"', '"storage.objects.get"'}
    assert "roles/storage." not in text("gcp")
    roles = set(re.findall(r'"(roles/[\w.]+)"', text("gcp")))
    assert roles == {
        "roles/secretmanager.secretAccessor",
        "roles/run.invoker",
        "roles/pubsub.publisher",
        "roles/pubsub.subscriber",
        "roles/iam.serviceAccountTokenCreator",
    }


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_every_variable_is_a_setting_and_a_secret_is_never_a_value(cloud: str) -> None:
    said = set(re.findall(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\s*=(?!=)", text(cloud)))
    said |= set(re.findall(r'name = "([A-Z0-9_]+)", valueFrom', text(cloud)))
    assert len(said) > 8
    assert said <= SETTINGS.keys()
    secret = {name for name in said if SETTINGS[name].secret}
    assert secret == {"HTTPS_PROXY", "ENCRYPTION_KEY", "POSTGRES_PASSWORD"} & said
    for line in text(cloud).splitlines():
        if re.search(r"\b(ENCRYPTION_KEY|POSTGRES_PASSWORD)\b", line) and "description" not in line:
            assert re.search(r"valueFrom|= var\.\w+_secret\b", line), line
    assert not re.search(r'(?i)(password|secret)\s*=\s*"', text(cloud))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_what_rests_is_closed_and_kept(cloud: str) -> None:
    said = text(cloud)
    assert said.count("prevent_destroy = true") >= 1
    if cloud == "aws":
        assert len(re.findall(r"(?:block_public_\w+|ignore_public_acls|restrict_public_buckets)\s*=\s*true", said)) == 4
        assert 'prefix = "${var.body_prefix}/queued/"' in said
        assert "retention_in_days = var.log_retention_days" in said
    else:
        assert re.search(r'public_access_prevention\s*=\s*"enforced"', said)
        assert re.search(r'matches_prefix = \["\$\{var\.body_prefix\}/queued/"\]', said)
        assert re.search(r'ssl_mode\s*=\s*"ENCRYPTED_ONLY"', said)


@pytest.mark.parametrize(
    "head",
    [
        *('"google_sql_database_instance" "this"', '"google_pubsub_topic" "calls"', '"google_pubsub_topic" "dead"'),
        *('"google_service_account" "this"', '"google_secret_manager_secret" "database_ca"'),
        '"google_cloudfunctions2_function" "relay"',
    ],
)
def test_on_google_what_needs_a_service_waits_for_it(head: str) -> None:
    """Else a first `apply` with a target makes it in a project where its service is not switched on."""
    assert re.search(r"depends_on\s*=\s*\[google_project_service\.this\]", block("gcp", f"resource {head}"))


def test_the_function_reaches_the_database_at_its_private_address() -> None:
    assert "ipv4_enabled    = false" in text("gcp")
    said = block("gcp", 'resource "google_cloudfunctions2_function" "relay"')
    assert re.search(r"vpc_connector\s*=\s*var\.function_connector", said)
    assert re.search(r'vpc_connector_egress_settings\s*=\s*"ALL_TRAFFIC"', said)


ALARMS = {
    "aws": {
        *("HealthyHostCount", "HTTPCode_ELB_5XX_Count", "FreeStorageSpace"),
        *("ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"),
    },
    "gcp": {
        *("run.googleapis.com/request_count", "cloudsql.googleapis.com/database/disk/utilization"),
        *("cloudsql.googleapis.com/database/cpu/utilization",),
        *("pubsub.googleapis.com/subscription/num_undelivered_messages",),
        *("pubsub.googleapis.com/subscription/oldest_unacked_message_age",),
    },
}


@pytest.mark.parametrize("cloud", ALARMS)
def test_there_is_an_alarm_for_each_way_to_fail(cloud: str) -> None:
    said = (FOLDER / cloud / "alarms.tf").read_text()
    assert set(re.findall(r'\bmetric\s*=\s*"([^"]+)"', said)) == ALARMS[cloud]
    assert re.search(r"(notification_channels|alarm_actions)\s*=\s*(var\.notification_channels|local\.topics)", said)


def test_on_google_each_alarm_watches_what_is_made_here_and_waits_for_its_service() -> None:
    alarms = re.findall(
        r"(?ms)^    ([\w-]+) = \{.*?^    \}", text("gcp").split("alarms = {", 1)[1].split("\nresource", 1)[0]
    )
    assert alarms == [
        *("answers-of-5xx", "tasks-fail", "dead-calls", "oldest-call", "database-storage", "database-processor"),
    ]
    said = (FOLDER / "gcp" / "alarms.tf").read_text()
    only = re.findall(r"(?m)^      only\s*= \[(.*)\]$", said)
    assert len(only) == len(alarms)
    assert all("${google_" in each or "${var.name}-relay" in each for each in only)
    assert '"monitoring.googleapis.com"' in text("gcp")
    head = 'resource "google_monitoring_alert_policy" "this"'
    assert re.search(r"depends_on\s*=\s*\[google_project_service\.this\]", block("gcp", head))


def test_on_google_what_an_outage_leaves_undelivered_is_heard_of_long_before_it_is_set_aside() -> None:
    (oldest,) = re.findall(r"(?s)oldest-call = \{.*?above\s*= (\d+), period = 60, lasts = (\d+)", text("gcp"))
    assert sum(map(int, oldest)) < 3600


def test_whoever_runs_roles_sql_on_aws_comes_to_the_database() -> None:
    said = block("aws", 'resource "aws_vpc_security_group_ingress_rule" "database_from_administrators"')
    assert "var.administrator_security_group_ids" in said
    assert (
        "-target=aws_vpc_security_group_ingress_rule.database_from_administrators" in (FOLDER / "README.md").read_text()
    )


def test_the_migrations_command_is_run_by_a_shell_that_reads_its_quotes_and_is_waited_for() -> None:
    assert "\n$(terraform output" not in (FOLDER / "README.md").read_text()
    assert "aws ecs wait tasks-stopped" in block("aws", 'output "migrate"')
    assert "--wait" in block("gcp", 'output "migrate"')


def test_on_google_an_outage_of_hours_sets_no_call_aside() -> None:
    said = block("gcp", 'resource "google_pubsub_subscription" "calls"')
    (tries,) = re.findall(r"max_delivery_attempts\s*=\s*(\d+)", said)
    (least, most) = (int(each) for each in re.findall(r'(?:minimum|maximum)_backoff\s*=\s*"(\d+)s"', said))
    assert sum(min(least * 2**turn, most) for turn in range(int(tries) - 1)) > 12 * 3600
