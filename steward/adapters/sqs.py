"""Amazon's SQS as a carrier of messages. botocore is imported when the first message goes or is asked for.

It speaks to the address of its queue's URL alone, as the host's own role, and knows nothing of what a message says.
Nothing of a vendor's text leaves it: an error is a code.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from steward.carrier import Carrier, Delivery
from steward.errors import QueueFault, QueueRefused, QueueUnavailable, SettingError
from steward.queue_values import SqsQueue, sqs_queue

if TYPE_CHECKING:
    from botocore.client import BaseClient

CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 5
MOST_WAIT_S: Final = 20
"""The longest SQS lets a question wait."""
MOST_HIDDEN_S: Final = 43_200
ATTEMPTS: Final = 2
PARALLEL: Final = 32
_AT_ONCE: Final = 10
"""Messages in one call."""
_COUNTS: Final = (
    *("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"),
)
_PASSING: Final = ("Throttl", "Timeout", "Unavailable", "Expired", "Internal", "OverLimit", "Skew")
_GONE: Final = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})
"""What SQS says of a receipt whose message is gone, or is no more hidden."""


class SqsCarrier(Carrier):
    """One queue. Its client is made at first use and serves all threads."""

    def __init__(self, queue: SqsQueue) -> None:
        """Raises SettingError without boto3. Connects to nothing yet."""
        if find_spec("botocore") is None:
            raise SettingError("SQS needs boto3. Install majordomo-steward[aws].")
        self._queue = queue
        self._lock = threading.Lock()
        self._made: BaseClient | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """Account and name."""
        return self._queue.name

    def send(self, text: str, request_id: UUID) -> None:
        about = {"request_id": {"DataType": "String", "StringValue": str(request_id)}}
        if not self._ask("send_message", MessageBody=text, MessageAttributes=about).get("MessageId"):
            raise QueueUnavailable  # whatever answered, it was no queue

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        found: list[Delivery] = []
        while len(found) < most:
            wait = 0 if found else math.ceil(min(wait_s, MOST_WAIT_S))
            asked = min(_AT_ONCE, most - len(found))
            try:
                answer = self._ask(
                    "receive_message", MaxNumberOfMessages=asked, WaitTimeSeconds=wait, VisibilityTimeout=hidden_s
                )
            except QueueFault:
                if found:  # handed out already: forgotten here, a try of theirs would be lost
                    return found
                raise
            came = [Delivery(each["ReceiptHandle"], each["MessageId"], each["Body"]) for each in _messages(answer)]
            found += came
            if not came:
                break
        return found

    def done(self, receipts: Sequence[str]) -> None:
        for some in _in_tens(receipts):
            entries = [{"Id": str(at), "ReceiptHandle": receipt} for at, receipt in enumerate(some)]
            _all_well(self._ask("delete_message_batch", Entries=entries))

    def hide(self, receipts: Sequence[str], hidden_s: int) -> None:
        for some in _in_tens(receipts):
            entries = [
                {"Id": str(at), "ReceiptHandle": receipt, "VisibilityTimeout": min(hidden_s, MOST_HIDDEN_S)}
                for at, receipt in enumerate(some)
            ]
            _all_well(self._ask("change_message_visibility_batch", Entries=entries))

    def depth(self) -> int | None:
        said = self._attributes(_COUNTS)
        return sum(int(said[name]) for name in _COUNTS)

    def dead(self) -> SqsCarrier | None:
        """That of the queue's RedrivePolicy. Raises QueueRefused when it names no queue beside this one."""
        policy = self._attributes(("RedrivePolicy",)).get("RedrivePolicy")
        if policy is None:
            return None
        try:
            _, _, _, region, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
            beside = sqs_queue(f"{self._queue.endpoint}/{account}/{name}")
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise QueueRefused from exc
        if region != self._queue.region:
            raise QueueRefused
        return SqsCarrier(beside)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
                self._made = None

    def _attributes(self, names: Sequence[str]) -> dict[str, str]:
        answer = self._ask("get_queue_attributes", AttributeNames=list(names))
        found: dict[str, str] = answer.get("Attributes", {})
        return found

    def _ask(self, operation: str, **said: Any) -> Any:
        try:
            return getattr(self._client(), operation)(QueueUrl=self._queue.url, **said)
        except QueueFault:
            raise
        # An SDK has no closed list of what it raises: an address that answers with garbage brings out any of it.
        except Exception as exc:
            raise _fault(exc) from exc

    def _client(self) -> BaseClient:
        with self._lock:
            if self._closed:
                raise QueueUnavailable
            if self._made is None:
                self._made = _client(self._queue)
            return self._made


def _client(queue: SqsQueue) -> BaseClient:
    """The one place where botocore meets credentials: the host's own."""
    from botocore.config import Config
    from botocore.session import Session

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S + MOST_WAIT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=PARALLEL,
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # missing in the stubs
    )
    return Session().create_client(
        "sqs",
        queue.region,
        endpoint_url=queue.endpoint,
        verify=ssl.get_default_verify_paths().cafile,
        config=config,
    )


def _messages(answer: Any) -> list[dict[str, str]]:
    found: list[dict[str, str]] = answer.get("Messages", [])
    return found


def _in_tens(receipts: Sequence[str]) -> list[Sequence[str]]:
    return [receipts[at : at + _AT_ONCE] for at in range(0, len(receipts), _AT_ONCE)]


def _all_well(answer: Any) -> None:
    """A receipt whose message is gone has nothing to be told; any other failure is to be said again."""
    failed = [each for each in answer.get("Failed", []) if not _gone(str(each.get("Code")))]
    if failed:
        raise QueueUnavailable


def _gone(code: str) -> bool:
    return any(code.endswith(word) for word in _GONE)


def _fault(exc: Exception) -> QueueFault:
    """What an error of the SDK means for us."""
    from botocore.exceptions import ClientError, NoCredentialsError

    if isinstance(exc, NoCredentialsError):
        return QueueRefused()
    if not isinstance(exc, ClientError):
        return QueueUnavailable()
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = exc.response.get("Error", {}).get("Code", "")
    passes = not 300 <= status < 500 or status in {408, 429} or any(word in code for word in _PASSING)
    return QueueUnavailable() if passes else QueueRefused()
