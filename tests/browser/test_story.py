"""The whole story, as the documentation tells it, over real processes: nothing here is called but what people call.

A Steward and a Butler are set up by their commands; a key and a bucket are made in the dashboard, in Chromium; an SDK
is pointed at the Steward; the call is found in the dashboard, its body in the bucket, and opened in the viewer.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect

from steward.adapters.postgres_local import LocalPostgres
from tests.browser.conftest import NewPage
from tests.servers.listening import free_port
from tests.servers.running_butler import PASSWORD, RunningButler, running_butler
from tests.servers.socket_provider import Provider
from tests.servers.steward import RunningSteward, run_command
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually

QUESTION = "CANARY-story-question: how far is the moon?"
_MAJORDOMO = "import os, sys; from steward.majordomo import main; sys.exit(main(sys.argv[1:], os.environ))"


@pytest.fixture
def butler(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[tuple[RunningButler, int]]:
    """Butler, and the port that the Steward's viewer will have."""
    view_port = free_port()
    with running_butler(postgres_server, tmp_path, BUTLER_STEWARD_VIEW_URL=f"http://localhost:{view_port}") as made:
        yield made, view_port


def majordomo(butler: RunningButler, home: Path, words: str, said: str = "") -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", _MAJORDOMO, *shlex.split(words), "--json"],
        env={**butler.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        input=said.encode(),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return orjson.loads(ran.stdout)


def signed_in(page: Page, butler: RunningButler) -> None:
    page.goto(butler.url)
    page.get_by_label("Email").fill(butler.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def a_key(page: Page) -> str:
    """Made in the dashboard, which shows it this once."""
    page.get_by_role("navigation").get_by_role("link", name="API keys").click()
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("checkout")
    page.get_by_role("button", name="Create key").click()
    shown = page.locator("main").inner_text()
    found = re.search(r"mdm_sk_[A-Za-z0-9_-]{20,}", shown)
    assert found is not None, shown
    return found[0]


def a_bucket(page: Page, server: S3Server, bucket: str) -> None:
    """Set in the dashboard, for the organisation."""
    page.get_by_role("navigation").get_by_role("link", name="Storage").click()
    form = page.locator("form[action='/storage/organisation']").first
    form.get_by_label("Bucket").fill(bucket)
    form.get_by_label("Region").fill("us-east-1")
    form.get_by_label("Endpoint").fill(server.address)
    form.get_by_label("Access key id").fill(server.access_key_id)
    form.get_by_label("Secret access key").fill(server.secret_access_key)
    password = form.locator("input[name='password']")
    if password.count():
        password.fill(PASSWORD)
    form.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text(bucket)


def approved(steward: RunningSteward, bucket: str) -> None:
    """A bucket at an endpoint of its own waits for a person inside; he sees what it is, and allows it."""
    waiting: list[Any] = []

    def waits() -> bool:
        waiting[:] = orjson.loads(run_command(steward.environ, "pending", "--json").stdout)
        return bool(waiting)

    eventually(waits, 60)
    (only,) = waiting
    assert bucket in orjson.dumps(only).decode()
    ran = run_command(steward.environ, "approve", only["fingerprint"])
    assert ran.returncode == 0, ran.stderr


def calls(steward: RunningSteward, key: str) -> str:
    """An SDK's call, once the Steward knows the key; its request id."""
    client = OpenAI(
        base_url=f"{steward.url}/v1",
        api_key="sk-provider",
        default_headers={"X-Majordomo-Key": key, "X-Majordomo-Feature": "checkout"},
        max_retries=0,
    )
    ids: list[str] = []

    def answered() -> bool:
        with contextlib.suppress(Exception):
            raw = client.chat.completions.with_raw_response.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": QUESTION}]
            )
            ids.append(raw.headers["x-majordomo-request-id"])
        return bool(ids)

    eventually(answered, 60)
    client.close()
    return ids[0]


def stored(server: S3Server, bucket: str, request_id: str) -> dict[str, Any]:
    """The body object, read by somebody who has the bucket."""
    found: list[str] = []

    def there() -> bool:
        with contextlib.closing(server.client()) as client:
            listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
            found[:] = [each["Key"] for each in listed if request_id in each["Key"]]
        return bool(found)

    eventually(there, 60)
    with contextlib.closing(server.client()) as client:
        document: dict[str, Any] = orjson.loads(
            gzip.decompress(client.get_object(Bucket=bucket, Key=found[0])["Body"].read())
        )
    return document


def in_dashboard(page: Page, butler: RunningButler, request_id: str) -> None:
    """The call's page: tokens, cost and latency, and no word of the body."""

    def known() -> bool:
        answer = page.goto(f"{butler.url}/requests/{request_id}")
        return answer is not None and answer.status == 200

    eventually(known, 60)
    main = page.locator("main")
    for word in ("gpt-4o-mini", "checkout", "$", "ms", request_id):
        expect(main).to_contain_text(word)
    assert "CANARY" not in page.content()


def opened(page: Page, steward: RunningSteward, org_id: object, screenshot: Callable[[Page, str], Path]) -> None:
    """The link of the dashboard leads to the viewer, which asks for a sign-in of its own."""
    made = run_command(steward.environ, "view-token", "create", "--org", str(org_id), "--json")
    token = orjson.loads(made.stdout)["token"]
    with page.expect_popup() as opening:
        page.get_by_role("link", name="Open body").click()
    viewer = opening.value
    viewer.get_by_label("Token").fill(token)
    viewer.get_by_role("button", name="Sign in").click()
    for link in viewer.get_by_role("link", name=re.compile("Open", re.I)).all():
        if link.is_visible() and QUESTION not in viewer.content():
            link.click()
    expect(viewer.locator("body")).to_contain_text(QUESTION)
    screenshot(viewer, "story-viewer")


def test_the_story_of_the_documentation(
    butler: tuple[RunningButler, int],
    make_steward: Callable[..., RunningSteward],
    provider: Provider,
    s3_server: S3Server,
    new_page: NewPage,
    screenshot: Callable[[Page, str], Path],
    tmp_path: Path,
) -> None:
    running, view_port = butler
    login = f"login --url {running.url} --email {running.email} --password -"
    majordomo(running, tmp_path, login, f"{PASSWORD}\n")
    token = majordomo(running, tmp_path, "stewards create --name prod")["token"]
    steward = make_steward(provider.url, BODY_STORE_URL="", VIEW_AUTH="token", VIEW_PORT=str(view_port))
    registered = subprocess.run(
        [sys.executable, "-m", "steward", "register", "--token", "-", "--butler-url", running.url],
        env=dict(steward.environ),
        cwd="/",
        input=f"{token}\n".encode(),
        capture_output=True,
        check=False,
    )
    assert registered.returncode == 0, registered.stderr
    page, bucket = new_page(width=1440), s3_server.bucket().bucket
    signed_in(page, running)
    key = a_key(page)
    a_bucket(page, s3_server, bucket)
    approved(steward, bucket)
    # Both who need to: the process that settles, and the viewer.
    eventually(lambda: steward.said().count(b"stores_followed") == 2, 60)
    request_id = calls(steward, key)
    document = stored(s3_server, bucket, request_id)
    assert document["request"]["body"]["messages"][0]["content"] == QUESTION
    in_dashboard(page, running, request_id)
    screenshot(page, "story-request")
    opened(page, steward, running.org_id, screenshot)
    usage = majordomo(running, tmp_path, "usage --by model --since 7d")
    assert "gpt-4o-mini" in orjson.dumps(usage).decode()
