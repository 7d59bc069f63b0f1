"""The error tree. Each error knows its HTTP status, its code, its log level and one fixed sentence.

    StewardError
    |- CallerFault            the caller's request cannot be served as it stands
    |  |- BadRequest 400      malformed head, two of a kind, dot segments, a header that splits
    |  |- UnknownRoute 400    no provider can be told from path and headers
    |  |- LeakedKey 400       a key of ours stands where the provider's credential belongs
    |  |- MissingKey InvalidKey RevokedKey 401
    |  |- RequestTimeout 408  HeadTooLarge 431  TooManyCalls 429  TooLarge 413  TooManyConnections 503
    |  |- StreamingUnavailable 400   this host passes no stream on, and refuses to buffer one
    |  `- Unsupported 501     upgrade, a transfer coding other than chunked
    |- UpstreamFault          the provider, or the way to it
    |  |- UpstreamUnreachable UpstreamBadAnswer UpstreamBroke 502
    |  |- UpstreamTimeout 504
    |  `- UpstreamBusy 503    every connection is taken
    |- OwnFault               ours
    |  |- KeyCheckUnavailable 503   the database cannot say whether a key is good
    |  |- NotAccepted 503           not even the intent of a call can be kept
    |  |- AnswerTooLarge 502        the provider's answer is larger than this host can carry
    |  |- ShuttingDown 503            the process ends and the grace is over
    |  `- InternalError 500
    |- CallerGone             the caller left; nobody is there to be answered
    |- StoreFault             StoreUnavailable (try again; StoreSlow 503)  StoreRefused (do not)
    |- LedgerFault            LedgerUnavailable (try again)  SchemaTooOld (run: steward migrate)
    |                         EgressLogBroken (run: steward egress verify)
    |- ButlerFault            ButlerUnavailable (try again)  ButlerDenied (the token)  ButlerRejected (what was sent)
    |                         ButlerNonsense (an answer outside its types)
    |- NotExportable          a row of which no record can be made that may leave
    |- PriceFault             PriceFeedFailed (try again)  PriceListRefused (not acceptable; the last good one stays)
    |- ViewFault              what the viewer does not open
    |  |- NoSuchCall 404      there is none, or it is another organisation's: one answer
    |  |- NotTheObject 502    the object in the store is not the one that the call left
    |  |- BodyTooLarge 413    it unpacks to more than is shown
    |  |- BodyUnreadable 502  it is none of ours
    |  |- SignInRefused 403   the OpenID provider's answer is not exactly right
    |  `- ProviderUnavailable 502
    |- QueueFault             QueueUnavailable (try again)  QueueRefused (no right to it)
    |                         MessageRefused (not sealed by us)  MessageWaits (its object cannot be had now)
    |- SealBroken             a ciphertext that does not open under this key and these facts
    `- SettingError           a setting is wrong; one line, exit 2

`Cut` stands outside: the signal that a response which has begun must break.

Foreign errors are mapped into it where they are met, and described by `facts()` alone: never `str(exc)`, whose words
may be a prompt, a key or a row (SECURITY F4).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar

MAX_FRAMES = 12


class StewardError(Exception):
    """The root. `message` is one of our own fixed sentences and may be shown to anyone."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    level: ClassVar[int] = logging.ERROR
    message: str = "The Steward failed. The provider may not have seen this call."
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str | None = None) -> None:
        if message is not None:
            self.message = message
        super().__init__(self.message)


class CallerFault(StewardError):
    """The request cannot be served as it stands."""

    status = 400
    code = "bad_request"
    level = logging.INFO
    message = "The request is malformed."


class BadRequest(CallerFault):
    """A head that is malformed, ambiguous or split."""


class UnknownRoute(CallerFault):
    """No provider can be told from path and headers."""

    code = "unknown_route"
    message = (
        "No provider is known for this path. Set the header X-Majordomo-Provider to openai, anthropic or gemini, "
        "or use the provider's own path."
    )


class UnknownProvider(UnknownRoute):
    """`X-Majordomo-Provider` names none that is configured."""

    code = "unknown_provider"
    message = "X-Majordomo-Provider names a provider that this Steward does not know. Known: openai, anthropic, gemini."


class LeakedKey(CallerFault):
    """A key of ours stands where the provider's credential belongs."""

    code = "majordomo_key_as_credential"
    message = "A Majordomo key stands where the provider's credential belongs. Send it as X-Majordomo-Key."


class MissingKey(CallerFault):
    """No `X-Majordomo-Key`."""

    status = 401
    code = "missing_key"
    message = "The header X-Majordomo-Key is missing. Create a key with: steward keys create"


class InvalidKey(CallerFault):
    """The key is not one of ours, or unknown."""

    status = 401
    code = "invalid_key"
    message = "X-Majordomo-Key is not a known key."


class RevokedKey(CallerFault):
    """The key was revoked."""

    status = 401
    code = "revoked_key"
    message = "X-Majordomo-Key was revoked."


class RequestTimeout(CallerFault):
    """The head or the body did not come in time."""

    status = 408
    code = "request_timeout"
    message = "The request did not arrive in time."


class TooLarge(CallerFault):
    """The body is larger than this host can take."""

    status = 413
    code = "request_too_large"
    message = "The request is larger than this host can take."


class StreamingUnavailable(CallerFault):
    """A stream was asked for where none can be passed on (`ALB_STREAMING=refused`)."""

    code = "streaming_unavailable"
    message = (
        "Answers cannot be streamed through this load balancer. Ask for a whole answer, or use this Steward's "
        "streaming Function URL or its container."
    )


class TooManyCalls(CallerFault):
    """One key has too many calls running."""

    status = 429
    code = "too_many_calls"
    message = "This key has too many calls running."
    retry_after_s = 1


class HeadTooLarge(CallerFault):
    """The head exceeds 64 KiB or 128 fields."""

    status = 431
    code = "head_too_large"
    message = "The request's headers exceed 64 KiB or 128 fields."


class TooManyConnections(CallerFault):
    """`MAX_CONNECTIONS` is reached."""

    status = 503
    code = "too_many_connections"
    level = logging.WARNING
    message = "This Steward has too many connections open."
    retry_after_s = 1


class Unsupported(CallerFault):
    """Upgrade, or a transfer coding other than chunked."""

    status = 501
    code = "not_supported"
    message = "Upgrades and transfer codings other than chunked are not supported."


class UpstreamFault(StewardError):
    """The provider, or the way to it."""

    status = 502
    code = "upstream_failed"
    level = logging.WARNING
    message = "The provider failed to answer."


class UpstreamUnreachable(UpstreamFault):
    """No connection to the provider came about."""

    code = "upstream_unreachable"
    message = "The provider could not be reached."


class UpstreamBadAnswer(UpstreamFault):
    """The provider's answer is not HTTP, or its head cannot be passed on safely."""

    code = "upstream_bad_answer"
    message = "The provider's answer could not be understood."


class UpstreamBroke(UpstreamFault):
    """The provider's connection ended before its answer did."""

    code = "upstream_broke"
    message = "The provider's connection ended before its answer did."


class UpstreamTimeout(UpstreamFault):
    """Connect, head or silence limit reached."""

    status = 504
    code = "upstream_timeout"
    message = "The provider did not answer in time."


class UpstreamBusy(UpstreamFault):
    """Every connection to the provider is taken, and none came free in time."""

    status = 503
    code = "upstream_busy"
    message = "All connections to the provider are in use."
    retry_after_s = 1


class OwnFault(StewardError):
    """Ours."""


class KeyCheckUnavailable(OwnFault):
    """The database cannot say whether the key is good. Never a 401."""

    status = 503
    code = "key_check_unavailable"
    level = logging.WARNING
    message = "The key cannot be checked at the moment. Try again."
    retry_after_s = 2


class NotAccepted(OwnFault):
    """Not even the intent of the call can be kept; nothing was sent to the provider."""

    status = 503
    code = "not_accepted"
    message = "The call cannot be recorded at the moment and was not sent. Try again."
    retry_after_s = 2


class AnswerTooLarge(OwnFault):
    """The provider's answer is larger than this host can carry; nothing of it was passed on."""

    status = 502
    code = "answer_too_large"
    level = logging.WARNING
    message = "The provider's answer is larger than this host can carry."


class ShuttingDown(OwnFault):
    """The process ends and the call's grace is over."""

    status = 503
    code = "shutting_down"
    level = logging.WARNING
    message = "This Steward is shutting down."
    retry_after_s = 1


class InternalError(OwnFault):
    """A defect of ours."""


class CallerGone(StewardError):
    """The caller left. Nobody is there to be answered."""

    status = 499
    code = "client_cancelled"
    level = logging.INFO
    message = "The caller left."


class Cut(Exception):
    """Raised by the relay to end a response that must not end cleanly: the connection is closed under it."""


class StoreFault(StewardError):
    """A body store did not take, give or delete an object."""

    code = "store_failed"
    level = logging.WARNING
    message = "The body store failed."


class StoreUnavailable(StoreFault):
    """Try again later: timeouts, 5xx, throttling, no connection."""

    code = "store_unavailable"
    message = "The body store is not available."


class StoreSlow(StoreUnavailable):
    """Somebody waited for it as long as anybody should."""

    status = 503
    code = "store_slow"
    message = "The bucket did not answer in time. Nothing was shown; try again in a moment."
    retry_after_s = 5


class StoreRefused(StoreFault):
    """Trying again does not help: 403, no such bucket, wrong owner."""

    code = "store_refused"
    message = "The body store refused the object."


class BodyNotFound(StoreFault):
    """No object under that key."""

    status = 404
    code = "body_not_found"
    level = logging.INFO
    message = "There is no such body object."


class ViewFault(StewardError):
    """What the viewer does not open."""

    status = 403
    code = "view_refused"
    level = logging.WARNING
    message = "The viewer does not open this."


class NoSuchCall(ViewFault):
    """There is none, or it is another organisation's."""

    status = 404
    code = "no_such_call"
    level = logging.INFO
    message = "There is no such call among yours."


class NotTheObject(ViewFault):
    """The stored object's hash is not the row's."""

    status = 502
    code = "not_the_object"
    level = logging.ERROR
    message = "The object in the store is not the one that this call left: its SHA-256 differs. It is not shown."


class BodyTooLarge(ViewFault):
    """It is, or unpacks to, more than is shown."""

    status = 413
    code = "body_too_large"
    message = "The object unpacks to more than 64 MiB. It is not shown here; fetch it from the store by its key."


class BodyUnreadable(ViewFault):
    """Not a body object of ours."""

    status = 502
    code = "body_unreadable"
    message = "The object in the store cannot be read."


class SignInRefused(ViewFault):
    """The OpenID provider's answer is not exactly right, or the person is in no group that opens anything."""

    code = "sign_in_refused"
    message = "The sign-in was refused."


class ProviderUnavailable(ViewFault):
    """The OpenID provider does not answer, or not as one."""

    status = 502
    code = "provider_unavailable"
    message = "The OpenID provider does not answer as it should. Try again."


class LedgerFault(StewardError):
    """The database did not do what was asked."""

    code = "ledger_failed"
    message = "The database failed."


class LedgerUnavailable(LedgerFault):
    """Try again later."""

    status = 503
    code = "ledger_unavailable"
    level = logging.WARNING
    message = "The database is not available."


class SchemaTooOld(LedgerFault):
    """The tables are older than this release."""

    status = 503
    code = "schema_too_old"
    message = "The database schema is too old. Run: steward migrate"


class EgressLogBroken(LedgerFault):
    """The egress log is not what was written."""

    code = "egress_log_broken"
    message = "The egress log is not what was written, so none of it is let go. Run: steward egress verify"


class PriceFault(StewardError):
    """No newer prices. Never a call's concern: the last good list stays in force."""

    code = "price_failed"
    level = logging.WARNING
    message = "Newer prices could not be had; the last good ones stay in force."


class PriceFeedFailed(PriceFault):
    """The list could not be fetched."""

    code = "price_feed_failed"
    message = "The price list could not be fetched; the last good one stays in force."


class PriceListRefused(PriceFault):
    """A fetched list that is not acceptable as a whole."""

    code = "price_list_refused"
    message = "The fetched price list is not acceptable; the last good one stays in force."


class ButlerFault(StewardError):
    """The control plane did not do what was asked."""

    code = "butler_failed"
    level = logging.WARNING
    message = "Butler failed."


class ButlerUnavailable(ButlerFault):
    """Try again later: no connection, a time-out, 5xx, 429, an answer that broke off."""

    code = "butler_unavailable"
    message = "Butler is not available."

    def __init__(self, after_s: float | None = None) -> None:
        super().__init__()
        self.after_s = after_s
        """Seconds that it asked for, at most five minutes; None when it did not say."""


class ButlerDenied(ButlerFault):
    """401 or 403: the token is unknown or revoked, or the address is another's."""

    code = "butler_denied"
    message = "Butler does not know this token. Check the token and the address."


class ButlerRejected(ButlerFault):
    """Another 4xx: what was sent is not taken as it stands."""

    code = "butler_rejected"
    message = "Butler does not take what was sent."


class ButlerNonsense(ButlerFault):
    """What came is no answer of the protocol: too large, too deep, of another type, a redirect."""

    code = "butler_nonsense"
    message = "Butler's answer is not one of the protocol."


class NotExportable(StewardError):
    """A row holds something outside the domains of what may leave: it stays, alone."""

    code = "not_exportable"
    level = logging.WARNING
    message = "The row holds something that may not leave."


class SealBroken(StewardError):
    """A ciphertext does not open under this key and these facts."""

    code = "seal_broken"
    message = "A sealed value does not open: wrong ENCRYPTION_KEY, or the value was moved or changed."


class QueueFault(StewardError):
    """A queue between a relay and who settles."""

    code = "queue_failed"
    level = logging.WARNING
    message = "The queue failed."


class QueueUnavailable(QueueFault):
    """Try again later: time-outs, 5xx, throttling, no connection."""

    code = "queue_unavailable"
    message = "The queue is not available."


class QueueRefused(QueueFault):
    """Trying again does not help: no such queue, no right to it."""

    code = "queue_refused"
    message = "The queue refused. Check its name, and what the host's own role may do with it."


class MessageRefused(QueueFault):
    """A message that was not sealed by us, for this queue and this call. It is left to the dead-letter queue."""

    code = "message_refused"
    message = "The message does not open: it was not sealed by this Steward for this queue, or it was changed."

    def __init__(self, reason: str = "not_a_message") -> None:
        """`reason`: one of our own words."""
        super().__init__()
        self.reason = reason


class MessageWaits(QueueFault):
    """The object that a message speaks of cannot be had now."""

    code = "message_waits"
    message = "The object that the message speaks of cannot be had now."

    def __init__(self, reason: str = "object_missing") -> None:
        """`reason`: one of our own words."""
        super().__init__()
        self.reason = reason


class SettingError(StewardError):
    """A setting is wrong. `message` names it; the process exits with 2."""

    code = "bad_setting"
    message = "A setting is wrong."


def facts(exc: BaseException) -> Mapping[str, object]:
    """What may be said of an error: class, code, SQLSTATE and frames without locals. Never its text."""
    code = exc.code if isinstance(exc, StewardError) else "foreign"
    said: dict[str, object] = {"error": type(exc).__name__, "code": code}
    if sqlstate := _sqlstate(exc) or (exc.__cause__ and _sqlstate(exc.__cause__)):
        said["sqlstate"] = sqlstate
    said["frames"] = _frames(exc.__traceback__)
    if exc.__cause__ is not None:
        said["cause"] = type(exc.__cause__).__name__
    return said


def _sqlstate(exc: BaseException) -> str | None:
    """SQLSTATE of a pg8000 error, also inside SQLAlchemy's wrapper: five characters or nothing."""
    origin = getattr(exc, "orig", None) or exc
    first = origin.args[0] if origin.args else None
    state = first.get("C") if isinstance(first, dict) else None
    if isinstance(state, str) and len(state) == 5 and state.isalnum() and state.isascii():
        return state
    return None


def _frames(trace: TracebackType | None) -> list[str]:
    """The innermost frames as `file:line function`, without a single value."""
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        name = code.co_filename.rsplit("/", 2)
        frames.append(f"{'/'.join(name[-2:])}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-MAX_FRAMES:]
