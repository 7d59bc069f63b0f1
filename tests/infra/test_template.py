"""template.yaml, expanded: no public door, no wildcard, secrets by ARN alone, queues and bucket closed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from steward.setting_table import TABLE
from tests.infra.expanded import Node, choices, each_of, expanded, of_role, resources, statements, template

KEYS_OWN = {"DataKey"}
"""Where the resource `*` is the resource itself: the policy of a key."""
NETWORK_INTERFACES = "NetworkInterfacesOfTheVpcFunction"
"""Lambda looks for these before it makes a function in a VPC; AWS scopes most of them to nothing smaller."""
OF_THE_RUNTIME = {"AWS_LAMBDA_EXEC_WRAPPER"}
SECRETS = {setting.name for setting in TABLE if setting.secret}
FUNCTIONS = {"RelayFunction", "StreamFunction", "SettleFunction", "ScheduledFunction"}


def functions() -> dict[str, Node]:
    return {name: each["Properties"] for name, each in resources("AWS::Lambda::Function").items()}


def test_the_load_balancer_is_inside_and_speaks_https_alone() -> None:
    (balancer,) = resources("AWS::ElasticLoadBalancingV2::LoadBalancer").values()
    assert balancer["Properties"]["Scheme"] == "internal"
    listeners = resources("AWS::ElasticLoadBalancingV2::Listener").values()
    assert [(each["Properties"]["Protocol"], each["Properties"]["Port"]) for each in listeners] == [("HTTPS", 443)]
    for each in listeners:
        assert each["Properties"]["Certificates"] == [{"CertificateArn": {"Ref": "CertificateArn"}}]
        assert "TLS13" in each["Properties"]["SslPolicy"]


def test_headers_come_one_by_one_and_as_they_are() -> None:
    (group,) = resources("AWS::ElasticLoadBalancingV2::TargetGroup").values()
    properties = group["Properties"]
    assert properties["TargetType"] == "lambda"
    assert {"Key": "lambda.multi_value_headers.enabled", "Value": "true"} in properties["TargetGroupAttributes"]
    assert group["DependsOn"] == "LoadBalancerMayInvoke"


def test_nothing_is_let_in_from_everywhere() -> None:
    rules = [each["Properties"] for each in resources("AWS::EC2::SecurityGroupIngress").values()]
    for group in resources("AWS::EC2::SecurityGroup").values():
        rules += choices(group["Properties"].get("SecurityGroupIngress", []))
    assert len(rules) == 2
    for rule in rules:
        assert rule.get("CidrIp", {"Ref": "AllowedSourceCidr"}) == {"Ref": "AllowedSourceCidr"}
        assert "CidrIpv6" not in rule
        assert rule["FromPort"] == rule["ToPort"]


@pytest.mark.parametrize(
    ("range_", "taken"),
    [("10.0.0.0/8", True), ("192.168.7.0/24", True), ("0.0.0.0/0", False), ("0.0.0.0/8", False), ("10.0.0.0/4", False)],
)
def test_the_range_of_callers_must_be_named(range_: str, taken: bool) -> None:
    given = template()["Parameters"]["AllowedSourceCidr"]
    assert "Default" not in given
    assert bool(re.search(given["AllowedPattern"], range_)) is taken


def test_a_functions_url_is_for_signed_calls_of_one_role() -> None:
    (url,) = resources("AWS::Lambda::Url").values()
    assert (url["Properties"]["AuthType"], url["Properties"]["InvokeMode"]) == ("AWS_IAM", "RESPONSE_STREAM")
    assert "Cors" not in url["Properties"]
    permissions = [each["Properties"] for each in resources("AWS::Lambda::Permission").values()]
    assert len(permissions) == 3
    for each in permissions:
        if each["Principal"] == "elasticloadbalancing.amazonaws.com":
            assert each["SourceAccount"] == {"Ref": "AWS::AccountId"}
            assert each["SourceArn"]["Fn::Sub"].endswith(":targetgroup/${TargetGroupName}/*")
        else:
            assert each["Principal"] == {"Ref": "StreamCallerRoleArn"}
            assert each.get("FunctionUrlAuthType") == "AWS_IAM" or each["InvokedViaFunctionUrl"] is True


def test_every_function_stands_in_the_vpc_under_a_role_of_its_own() -> None:
    found = functions()
    assert set(found) == FUNCTIONS
    for each in found.values():
        assert each["VpcConfig"]["SecurityGroupIds"] == [{"Ref": "FunctionSecurityGroup"}]
        assert each["Architectures"] == [{"Ref": "Architecture"}]
    assert len({str(each["Role"]) for each in found.values()}) == len(FUNCTIONS)
    roles = resources("AWS::IAM::Role")
    assert len(roles) == len(FUNCTIONS) + 1  # the schedule's
    for role in roles.values():
        assert "ManagedPolicyArns" not in role["Properties"]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_each_deployment_makes_a_version_that_the_alias_leads_to(name: str) -> None:
    """By the archive alone, SAM would make none for another value of a parameter, and `live` would stay as it was."""
    made = [expanded(release)["Resources"][f"{name}Aliaslive"]["Properties"] for release in ("1", "2")]
    assert made[0]["FunctionVersion"] != made[1]["FunctionVersion"]


def test_each_handler_is_the_one_that_is_written_for_it() -> None:
    assert {name: each["Handler"] for name, each in functions().items()} == {
        "RelayFunction": "handlers.aws_lambda.handler",
        "StreamFunction": "handlers.aws_lambda_stream",
        "SettleFunction": "handlers.aws_lambda.settle",
        "ScheduledFunction": "handlers.aws_lambda.scheduled",
    }


def test_no_action_is_a_wildcard() -> None:
    wild = [(name, action) for name, each in statements() for action in each_of(each["Action"]) if "*" in action]
    assert wild == []
    assert not [name for name, each in statements() if "NotAction" in each or "NotResource" in each]


def test_no_resource_is_a_wildcard_but_where_aws_knows_no_smaller() -> None:
    wild = [
        (name, each.get("Sid"))
        for name, each in statements()
        if "*" in each_of(each.get("Resource", [])) and each["Effect"] == "Allow" and name not in KEYS_OWN
    ]
    assert {sid for _, sid in wild} == {NETWORK_INTERFACES}
    assert {name for name, _ in wild} == {"RelayRole", "StreamRole", "SettleRole", "ScheduledRole"}


@pytest.mark.parametrize("name", ["RelayRole", "StreamRole", "SettleRole", "ScheduledRole"])
def test_what_lambda_does_with_network_interfaces_the_functions_code_may_not(name: str) -> None:
    allowed, denied = of_role(name)[NETWORK_INTERFACES], of_role(name)["ButNotByTheFunctionsOwnCode"]
    assert (denied["Effect"], denied["Action"]) == ("Deny", allowed["Action"])
    arn = denied["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]["Fn::Sub"]
    function = name.removesuffix("Role").lower()
    assert arn.endswith(f":function:${{AWS::StackName}}-{function}")
    assert functions()[f"{function.capitalize()}Function"]["FunctionName"]["Fn::Sub"].endswith(f"-{function}")


@pytest.mark.parametrize(
    ("role", "bucket", "queue"),
    [
        ("RelayRole", {"s3:PutObject"}, {"sqs:SendMessage"}),
        ("StreamRole", {"s3:PutObject"}, {"sqs:SendMessage"}),
        (
            "SettleRole",
            {"s3:PutObject", "s3:GetObject"},
            {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"},
        ),
        ("ScheduledRole", {"s3:PutObject"}, set()),
    ],
)
def test_each_role_may_what_its_function_does(role: str, bucket: set[str], queue: set[str]) -> None:
    found = of_role(role).values()
    actions = {action for each in found for action in each_of(each["Action"]) if each["Effect"] == "Allow"}
    assert {each for each in actions if each.startswith("s3:")} == bucket
    assert {each for each in actions if each.startswith("sqs:")} == queue
    for each in found:
        if any(action.startswith("s3:") for action in each_of(each["Action"])):
            assert each["Resource"]["Fn::Sub"][0].endswith(":${Bucket}/${BodyPrefix}/*")


def test_nobody_may_delete_an_object_or_list_the_bucket() -> None:
    actions = {action for _, each in statements() if each["Effect"] == "Allow" for action in each_of(each["Action"])}
    assert not [each for each in actions if each.startswith("s3:") and re.search("Delete|List|Acl|Policy", each)]


def test_a_secret_is_named_by_its_arn_alone() -> None:
    parameters = template()["Parameters"]
    for name, each in functions().items():
        for setting, value in each["Environment"]["Variables"].items():
            if setting not in SECRETS or setting == "HTTPS_PROXY":
                continue
            for choice in choices(value):
                parameter = parameters[choice["Ref"]]
                assert choice["Ref"].endswith("SecretArn"), name
                assert re.search(parameter["AllowedPattern"], "0123456789abcdef" * 4) is None
                assert re.search(
                    parameter["AllowedPattern"], "arn:aws:secretsmanager:eu-west-1:123456789012:secret:k-1"
                )
    assert re.search(parameters["HttpsProxy"]["AllowedPattern"], "http://me:secret@proxy:3128") is None


def test_a_parameter_holds_no_secret_but_names_one() -> None:
    for name, each in template()["Parameters"].items():
        if re.search("Secret|Password|Token|Key", name):
            assert name.endswith("Arn") and each["AllowedPattern"].startswith(("^arn", "^(arn")), name


def test_every_variable_is_a_setting() -> None:
    names = {setting.name for setting in TABLE} | OF_THE_RUNTIME
    for name, each in functions().items():
        assert each["Environment"]["Variables"].keys() <= names, name
        assert each["KmsKeyArn"] == {"Fn::GetAtt": ["DataKey", "Arn"]}


def test_the_queue_is_sealed_and_six_times_as_patient_as_its_consumer() -> None:
    queues = {name: each["Properties"] for name, each in resources("AWS::SQS::Queue").items()}
    assert set(queues) == {"CallsQueue", "DeadCallsQueue"}
    for each in queues.values():
        assert each["KmsMasterKeyId"] == {"Fn::GetAtt": ["DataKey", "Arn"]}
        assert each["MessageRetentionPeriod"] == 14 * 86400
    assert queues["CallsQueue"]["VisibilityTimeout"] >= 6 * functions()["SettleFunction"]["Timeout"]
    assert queues["CallsQueue"]["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadCallsQueue", "Arn"]}
    # Each try is a visibility timeout: an outage of two hours must not fill the dead letters.
    tries = queues["CallsQueue"]["RedrivePolicy"]["maxReceiveCount"]
    assert tries * queues["CallsQueue"]["VisibilityTimeout"] >= 7200


def test_a_message_as_text_goes_into_the_queue() -> None:
    (setting,) = (each for each in TABLE if each.name == "QUEUE_MESSAGE_MAX_BYTES")
    most = setting.parse(setting.unset or "")
    assert isinstance(most, int)
    assert most * 4 / 3 + 8192 < resources("AWS::SQS::Queue")["CallsQueue"]["Properties"]["MaximumMessageSize"]


def test_what_failed_alone_is_tried_again_and_the_database_is_spared() -> None:
    (mapping,) = resources("AWS::Lambda::EventSourceMapping").values()
    properties = mapping["Properties"]
    assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert properties["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "SettleConcurrency"}}
    assert functions()["RelayFunction"]["ReservedConcurrentExecutions"] == {"Ref": "RelayConcurrency"}


def queue_policy(name: str) -> dict[str, Node]:
    return {each["Sid"]: each for each in resources(None)[name]["Properties"]["PolicyDocument"]["Statement"]}


def test_senders_and_receivers_of_the_queue_are_named() -> None:
    found = queue_policy("WhoseCallsThoseAre")
    assert {each["Effect"] for each in found.values()} == {"Deny"}
    senders = choices(found["SendersAreNamed"]["Condition"]["ArnNotEquals"]["aws:PrincipalArn"])
    assert senders == [
        {"Fn::GetAtt": ["RelayRole", "Arn"]},
        {"Fn::GetAtt": ["StreamRole", "Arn"]},
        {"Ref": "OperatorRoleArn"},
    ]
    assert found["ReceiversAreNamed"]["Condition"]["ArnNotEquals"]["aws:PrincipalArn"] == {
        "Fn::GetAtt": ["SettleRole", "Arn"]
    }
    assert "sqs:ReceiveMessage" in found["ReceiversAreNamed"]["Action"]


@pytest.mark.parametrize("name", ["WhoseCallsThoseAre", "WhoseDeadCallsThoseAre", "BodyBucketPolicy"])
def test_what_comes_without_tls_is_refused(name: str) -> None:
    found = queue_policy(name)["ByTlsAlone"]
    assert (found["Effect"], found["Principal"]) == ("Deny", "*")
    assert found["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert {"sqs:SendMessage", "sqs:ReceiveMessage"} <= set(found["Action"]) or {"s3:GetObject", "s3:PutObject"} <= set(
        found["Action"]
    )


def test_the_bucket_is_closed_versioned_and_sealed() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    properties = bucket["Properties"]
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_what_waited_for_the_queue_outlives_its_messages() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    rules = {each["Id"]: each for each in bucket["Properties"]["LifecycleConfiguration"]["Rules"]}
    waited = rules["what-waited-for-the-queue"]
    assert waited["Prefix"] == {"Fn::Sub": "${BodyPrefix}/queued/"}
    kept = sum(each["Properties"]["MessageRetentionPeriod"] for each in resources("AWS::SQS::Queue").values())
    assert waited["ExpirationInDays"] * 86400 > kept
    assert [name for name, each in rules.items() if "ExpirationInDays" in each] == ["what-waited-for-the-queue"]


def test_every_log_is_kept_for_a_time_and_no_longer() -> None:
    groups = resources("AWS::Logs::LogGroup")
    used = {each["LoggingConfig"]["LogGroup"]["Ref"] for each in functions().values()}
    assert used == set(groups)
    for each in groups.values():
        assert each["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
        assert each["Properties"]["KmsKeyId"] == {"Fn::GetAtt": ["DataKey", "Arn"]}
    assert template()["Parameters"]["LogRetentionDays"]["Default"] in {30, 90, 365}


def test_there_is_an_alarm_for_each_way_to_fail() -> None:
    alarms = [each["Properties"] for each in resources("AWS::CloudWatch::Alarm").values()]
    watched = {(str(dimension["Value"]), each["MetricName"]) for each in alarms for dimension in each["Dimensions"]}
    for name in FUNCTIONS:
        for metric in ("Errors", "Throttles", "Duration"):
            assert (str({"Ref": name}), metric) in watched
    metrics = {each["MetricName"] for each in alarms}
    assert {"ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage", "HTTPCode_ELB_5XX_Count"} <= metrics


def test_what_is_optional_is_optional_as_a_whole() -> None:
    optional = {
        "Queued": ["CallsQueue", "DeadCallsQueue", "SettleFunction", "SettleRole", "SettleLog", "WhoseCallsThoseAre"],
        "Streaming": ["StreamFunction", "StreamRole", "StreamLog"],
        "StreamCalled": ["StreamCallerMayCall", "StreamCallerMayInvoke"],
        "MakeBucket": ["BodyBucket", "BodyBucketPolicy"],
    }
    found = resources()
    for condition, names in optional.items():
        assert {name: found[name].get("Condition") for name in names} == dict.fromkeys(names, condition)


def test_the_schedule_runs_one_function_and_may_nothing_else() -> None:
    (schedule,) = resources("AWS::Scheduler::Schedule").values()
    target = schedule["Properties"]["Target"]
    assert target["RoleArn"] == {"Fn::GetAtt": ["SchedulerRole", "Arn"]}
    (only,) = of_role("SchedulerRole").values()
    assert (only["Action"], only["Resource"]["Fn::Sub"].rpartition(":function:")[2]) == (
        "lambda:InvokeFunction",
        "${AWS::StackName}-scheduled:live",
    )


def test_an_operator_finds_what_he_needs_among_the_outputs() -> None:
    outputs: dict[str, Any] = template()["Outputs"]
    assert {"LoadBalancerDnsName", "FunctionSecurityGroupId", "CallsQueueUrl", "StreamUrl", "RelayRoleArn"} <= set(
        outputs
    )
