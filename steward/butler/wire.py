"""The protocol that Stewards speak, server side: `/api/v1/steward/*`, as the original's and with our fields.

The organisation of every call is that of its token (SECURITY F8); what names another is refused, and not found and not
yours are one answer. It has no route on which content could arrive: results of jobs are known to nobody here yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from steward.butler.access import STEWARD, Rules, bearer_of, read_body, services_of
from steward.butler.errors import NotAcceptable, NotSignedIn, NotThere
from steward.butler.nouns import ApiKey
from steward.butler.reading import RECORD_FIELDS, parsed, records
from steward.butler.services import Services
from steward.butler.store_provider_keys import SentKey
from steward.butler.store_stewards import Bearer
from steward.butler.store_storage import SentConfig
from steward.butler.store_work import Ended
from steward.egress import MAX_PAGE
from steward.words import Secret

PREFIX: Final = "/api/v1/steward"
router = APIRouter(prefix=PREFIX)


async def _bearer(request: Request) -> Bearer:
    """Whose token it is. Raises NotSignedIn; a database that does not answer is a 503, never a 401."""
    services, token = services_of(request), bearer_of(request)
    if not token.startswith("mdm_st_"):
        raise NotSignedIn
    agent = request.headers.get("user-agent", "")
    found = await run_in_threadpool(services.stewards.bearer, Secret(token), agent, services.now())
    if found is None:
        raise NotSignedIn
    return found


async def _master(request: Request) -> None:
    """The one token that may ask which organisations wait to be taken over."""
    known: Secret[str] | None = request.app.state.managed_token
    if known is None or Secret(bearer_of(request)) != known:
        raise NotSignedIn


Asked = Annotated[Bearer, Depends(_bearer)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
After = Annotated[datetime | None, Query()]


@router.get("/me")
def me(request: Request, bearer: Asked) -> JSONResponse:
    """Whose token it is, and which fields of a record are taken."""
    said = {
        "steward_id": str(bearer.steward_id),
        "org_id": str(bearer.org_id),
        "org_name": bearer.org_name,
        "record_fields": list(RECORD_FIELDS),
    }
    return JSONResponse(said)


@router.get("/work")
def work(request: Request, bearer: Asked, limit: Limit = 50) -> Response:
    """What there is to do; claimed by being answered."""
    services = services_of(request)
    items = services.work.claim(bearer.org_id, bearer.steward_id, limit, services.now())
    return _json([_without_none(_fields(each)) for each in items])


@router.post("/work/{job_id}/ack")
def ack(request: Request, bearer: Asked, job_id: UUID) -> Response:
    """It is done."""
    return _end(services_of(request), bearer, job_id, succeeded=True)


@router.post("/work/{job_id}/fail")
def fail(request: Request, bearer: Asked, job_id: UUID) -> Response:
    """It cannot be done."""
    return _end(services_of(request), bearer, job_id, succeeded=False)


def _end(services: Services, bearer: Bearer, job_id: UUID, succeeded: bool) -> Response:
    services.work.end(bearer.org_id, bearer.steward_id, Ended(job_id, succeeded, services.now()))
    return _json({})


@router.get("/api-keys")
def api_keys(request: Request, bearer: Asked, updated_after: After = None, limit: Limit = 200) -> Response:
    """Keys that changed since, oldest change first."""
    _aware(updated_after)
    found = services_of(request).keys.changed(bearer.org_id, updated_after, limit)
    return _json([_api_key(each) for each in found])


@router.get("/cloud-storage-configs")
def storage_configs(request: Request, bearer: Asked) -> Response:
    """The whole set, secrets in clear: the Steward seals them before they touch its disk."""
    return _json([_storage_config(each) for each in services_of(request).storage.sent(bearer.org_id)])


@router.get("/provider-keys")
def provider_keys(request: Request, bearer: Asked) -> Response:
    """The whole set, in clear."""
    return _json(
        [_provider_key(each, bearer.org_id) for each in services_of(request).provider_keys.sent(bearer.org_id)]
    )


@router.get("/experiments")
def experiments(request: Request, bearer: Asked, updated_after: After = None, limit: Limit = 200) -> Response:
    """None yet."""
    _aware(updated_after)
    return _json([])


@router.post("/ingest/metadata")
async def ingest(request: Request, bearer: Asked) -> Response:
    """Records, at most 500; all of them or, when one is not taken, none: the answer says which."""
    services, document = services_of(request), await read_body(request)

    def take() -> Mapping[str, int]:
        batch = records(document, bearer.org_id)
        applied = services.records.ingest(bearer, batch, services.now())
        return {"accepted": len(batch), "added": applied.added, "changed": applied.changed, "ignored": applied.ignored}

    return _json(await run_in_threadpool(take))


@router.get("/replay-runs/{run_id}")
@router.get("/eval-runs/{run_id}")
def run(request: Request, bearer: Asked, run_id: UUID) -> Response:
    """There are none yet."""
    raise NotThere


@router.post("/replay-runs/status")
@router.post("/eval-runs/status")
@router.post("/replay-results")
@router.post("/eval-results")
async def report(request: Request, bearer: Asked) -> Response:
    """Of runs that exist: there are none yet, so only an empty list is taken. What was sent is not kept."""
    said = await run_in_threadpool(parsed, await read_body(request))
    if not isinstance(said, list):
        raise NotAcceptable
    if said:
        raise NotThere
    return _json({})


@router.get("/managed/pending", dependencies=[Depends(_master)])
def managed_pending(request: Request) -> Response:
    """Organisations that wait to be taken over, each with its own token."""
    waiting = services_of(request).managed.pending()
    return _json([{**_fields(each), "token": each.token.reveal()} for each in waiting])


@router.post("/managed/assignments/{assignment_id}/claim", dependencies=[Depends(_master)], status_code=204)
def managed_claim(request: Request, assignment_id: UUID) -> Response:
    """One was taken over: its token is told to nobody any more."""
    services = services_of(request)
    services.managed.claim(assignment_id, services.now())
    return Response(status_code=204)


RULES: Final[Rules] = {
    f"{method} {route.path}": STEWARD  # type: ignore[attr-defined]
    for route in router.routes
    for method in route.methods  # type: ignore[attr-defined]
}
"""A Steward's token opens all of these, and nothing else."""


def _aware(at: datetime | None) -> None:
    if at is not None and at.tzinfo is None:
        raise NotAcceptable("updated_after")


def _api_key(key: ApiKey) -> Mapping[str, object]:
    said = _fields(key)
    said.pop("key_hint")
    return _without_none(said)


def _storage_config(sent: SentConfig) -> Mapping[str, object]:
    config, secret = sent.config, None if sent.secret is None else sent.secret.reveal()
    said: dict[str, object] = {
        "owner_id": config.owner_id,
        "owner_type": config.owner_type,
        "provider": config.provider,
        "s3_bucket": config.s3_bucket,
        "s3_region": config.s3_region,
        "s3_endpoint": config.s3_endpoint,
        "s3_access_key_id": config.s3_access_key_id,
        "s3_secret_access_key": secret if config.provider == "s3" else None,
        "gcs_bucket": config.gcs_bucket,
        "gcs_project_id": config.gcs_project_id,
        "gcs_credentials_json": secret if config.provider == "gcs" else None,
    }
    return _without_none(said)


def _provider_key(sent: SentKey, org_id: UUID) -> Mapping[str, object]:
    about = sent.about
    owner = {"org_id": org_id} if about.user_id is None else {"user_id": about.user_id}
    times = {"created_at": about.created_at, "updated_at": about.updated_at}
    return {"id": about.id, **owner, "provider": about.provider, "key": sent.key.reveal(), **times}


def _fields(noun: Any) -> dict[str, object]:
    """A frozen noun's fields."""
    return {name: getattr(noun, name) for name in noun.__dataclass_fields__ if name != "token"}


def _without_none(said: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in said.items() if value is not None}


def _json(value: object) -> Response:
    return Response(orjson.dumps(value, default=_number, option=orjson.OPT_UTC_Z), media_type="application/json")


def _number(value: object) -> object:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError
