"""A browser without scripts, signed in to a Butler with a small day in it: gets pages, sends their forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import httpx
from fastapi import FastAPI

from steward.butler.app import create_butler
from steward.butler.nouns import Role
from tests.butler.browser import Asker
from tests.butler.seed import Day, seed
from tests.servers.butler import PASSWORD, ButlerBench, Tenant

_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class Visit:
    """One browser."""

    app: FastAPI
    asker: Asker = field(init=False)

    def __post_init__(self) -> None:
        self.asker = Asker(self.app)

    def get(self, path: str) -> httpx.Response:
        return self.asker.get(path)

    def text(self, path: str) -> str:
        """The page, which must be one."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code)
        return answer.text

    def words(self, path: str) -> str:
        """What a person reads of it: without tags, spaces as one."""
        return words_of(self.text(path))

    def token(self, path: str = "/keys") -> str:
        """The token in a page's forms."""
        found = _CSRF.search(self.get(path).text)
        assert found is not None
        return found[1]

    def send(self, path: str, on: str = "/keys", **fields: Any) -> httpx.Response:
        """A form, as the page `on` would send it."""
        return self.asker.post(path, data={"csrf": self.token(on), **fields})

    def sign_in(self, email: str, password: str = PASSWORD, then: str = "/") -> httpx.Response:
        return self.send("/sign-in", on="/sign-in", email=email, password=password, next=then)


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


@dataclass
class House:
    """A Butler with one organisation and its day, and another organisation beside it."""

    bench: ButlerBench
    app: FastAPI
    acme: Tenant
    other: Tenant
    day: Day | None

    def visit(self, role: Role = Role.OWNER) -> Visit:
        """A browser of a person with that role."""
        visit = Visit(self.app)
        person = self.acme.owner if role is Role.OWNER else self.bench.member(self.acme, role)
        assert visit.sign_in(person.email).status_code == 303
        return visit


def house_of(bench: ButlerBench, calls: int = 160) -> House:
    """With that many calls of the last day; with 0, nobody ever called."""
    acme, other = bench.tenant("acme"), bench.tenant("other")
    day = seed(bench.services, acme.owner, acme.bearer, bench.clock(), calls) if calls else None
    return House(bench, create_butler(bench.services), acme, other, day)
