"""Managed mode: assigned organisations are registered, then claimed, and nobody else's is taken over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from steward import egress, managed
from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_directory import PostgresDirectory
from steward.errors import ButlerDenied, ButlerNonsense, ButlerUnavailable, LedgerFault, LedgerUnavailable
from steward.managed import Managed
from steward.ports import ControlPlane, Directory, Identity, Registration
from steward.words import Secret
from tests.said import Said, listening
from tests.servers.butler_stub import MASTER, Organisation, StubButler, document, stub_butler


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture(params=["memory", "postgres"])
def directory(request: pytest.FixtureRequest) -> Directory:
    if request.param == "memory":
        return MemoryDirectory()
    database = request.getfixturevalue(request.param)
    return PostgresDirectory(database.engine, database.keyring)


def opener(url: str, token: Secret[str]) -> ControlPlane:
    return HttpButler(url, token, deadline_s=5)


def managing(directory: Directory, butler: StubButler, master: str = MASTER) -> Managed:
    return Managed(directory, opener, butler.url, Secret(master))


class Failing(ControlPlane):
    """Has no answer, for now, to one question of one organisation's."""

    def __init__(self, butler: ControlPlane, asked: type[egress.Call], of_it: bool) -> None:
        self.butler, self.asked, self.of_it = butler, asked, of_it

    def ask(self, call: egress.Call, fields: frozenset[str] | None = None) -> object:
        if self.of_it and isinstance(call, self.asked):
            raise ButlerUnavailable
        return self.butler.ask(call, fields)

    def close(self) -> None:
        self.butler.close()


def assigned(who: Organisation, **changes: Any) -> dict[str, Any]:
    return {"id": str(uuid4()), "org_id": str(who.id), "org_name": who.name, "token": who.token, **changes}


def names(directory: Directory) -> list[str]:
    return [each.org_name for each in directory.registrations() if each.deregistered_at is None]


def test_what_is_assigned_is_registered_then_claimed(directory: Directory, said: Said) -> None:
    one, other = Organisation("One"), Organisation("Other")
    with stub_butler(one, other) as butler:
        butler.pending = [assigned(one), assigned(other)]
        ids = [each["id"] for each in butler.pending]
        steward = managing(directory, butler)
        assert steward.run_once() is False
        assert names(directory) == ["One", "Other"]
        assert butler.claimed == ids
        assert [directory.token(each.id) for each in (one, other)] == [Secret(one.token), Secret(other.token)]
        first = next(index for index, (_, method, _) in enumerate(butler.asked) if method == "POST")
        assert {method for _, method, _ in butler.asked[first:]} == {"POST"}, "nothing is claimed before all are in"
        asked = {target.split("/")[4] for token, _, target in butler.asked if token == MASTER}
        assert asked == {"managed"}, "the master token serves the two managed calls alone"
        butler.asked.clear()
        assert steward.run_once() is False
        assert len(butler.asked) == 1
        assert said.events().count("managed_taken_over") == 2


def test_what_was_registered_and_not_claimed_is_claimed_the_next_time(directory: Directory) -> None:
    one = Organisation("One")
    with stub_butler(one) as butler:
        butler.pending = [assigned(one)]
        claim = f"/managed/assignments/{butler.pending[0]['id']}/claim"
        butler.instead[claim] = document(503, None)
        steward = managing(directory, butler)
        with pytest.raises(ButlerUnavailable):
            steward.run_once()
        [before] = directory.registrations()
        butler.instead.clear()
        steward.run_once()
        assert directory.registrations() == [before], "and when it was registered stays"
        assert len(butler.claimed) == 1


def test_an_assignment_that_cannot_be_taken_over_concerns_no_other(directory: Directory, said: Said) -> None:
    """SECURITY F8: a claim on an organisation that its token does not confirm, or that another Butler has here."""
    good, victim, elsewhere = Organisation("Good"), Organisation("Victim"), Organisation("Elsewhere")
    theirs = directory.register(
        Identity(elsewhere.steward_id, elsewhere.id, "Elsewhere"), "https://own.example", Secret(elsewhere.token)
    )
    with stub_butler(good, elsewhere) as butler:
        butler.pending = [
            assigned(victim),
            assigned(good, org_id=str(victim.id)),
            assigned(elsewhere),
            assigned(good, token="mdm_sk_" + "x" * 32),
            assigned(good, id="../../x"),
            assigned(good),
        ]
        wanted = butler.pending[-1]["id"]
        managing(directory, butler).run_once()
        assert butler.claimed == [wanted]
        assert names(directory) == ["Elsewhere", "Good"]
        assert theirs in directory.registrations()
        assert len(said.lines("managed_refused")) == 2
        assert [line["count"] for line in said.lines("managed_skipped")] == [3]


def test_many_are_taken_a_hundred_at_a_time() -> None:
    many = [Organisation(f"Org {number}") for number in range(managed.MOST_AT_ONCE + 1)]
    directory = MemoryDirectory()
    with stub_butler(*many) as butler:
        butler.pending = [assigned(each) for each in many]
        steward = managing(directory, butler)
        assert [steward.run_once(), steward.run_once()] == [True, False]
        assert len(names(directory)) == len(butler.claimed) == len(many)


def test_what_is_refused_for_ever_is_not_asked_about_for_ever() -> None:
    many = [Organisation() for _ in range(managed.MOST_AT_ONCE + 1)]
    with stub_butler() as butler:
        butler.pending = [assigned(each) for each in many]
        assert managing(MemoryDirectory(), butler).run_once() is False


def test_what_is_refused_for_ever_is_in_nobody_s_way() -> None:
    strangers, one = [Organisation() for _ in range(managed.MOST_AT_ONCE)], Organisation("One")
    directory = MemoryDirectory()
    with stub_butler(one) as butler:
        butler.pending = [assigned(each) for each in [*strangers, one]]
        steward = managing(directory, butler)
        steward.run_once()
        steward.run_once()
        assert names(directory) == ["One"]


def test_one_whose_token_gets_no_answer_for_the_moment_delays_no_other() -> None:
    stuck, one = Organisation("Stuck"), Organisation("One")
    directory = MemoryDirectory()
    with stub_butler(stuck, one) as butler:
        butler.pending = [assigned(stuck), assigned(one)]
        wanted = butler.pending[1]["id"]

        def failing(url: str, token: Secret[str]) -> ControlPlane:
            return Failing(opener(url, token), egress.Me, token.reveal() == stuck.token)

        with pytest.raises(ButlerUnavailable):
            Managed(directory, failing, butler.url, Secret(MASTER)).run_once()
        assert (names(directory), butler.claimed) == (["One"], [wanted])


def test_one_whose_claim_gets_no_answer_delays_no_other() -> None:
    stuck, one = Organisation("Stuck"), Organisation("One")
    with stub_butler(stuck, one) as butler:
        butler.pending = [assigned(stuck), assigned(one)]
        butler.instead[f"/managed/assignments/{butler.pending[0]['id']}/claim"] = document(503, None)
        wanted = butler.pending[1]["id"]
        with pytest.raises(ButlerUnavailable):
            managing(MemoryDirectory(), butler).run_once()
        assert butler.claimed == [wanted]


def test_a_butler_that_is_away_is_not_asked_about_each() -> None:
    many = [Organisation(f"Org {number}") for number in range(20)]
    with stub_butler(*many) as butler:
        butler.pending = [assigned(each) for each in many]

        def failing(url: str, token: Secret[str]) -> ControlPlane:
            opened.append(url)
            return Failing(opener(url, token), egress.Me, True)

        opened: list[str] = []
        with pytest.raises(ButlerUnavailable):
            Managed(MemoryDirectory(), failing, butler.url, Secret(MASTER)).run_once()
        assert len(opened) == 4


def test_all_or_none_is_registered_and_nothing_claimed_when_the_database_fails() -> None:
    class Away(MemoryDirectory):
        def take_over(self, given: object, butler_url: str) -> list[Registration]:
            raise LedgerUnavailable

    one = Organisation("One")
    with stub_butler(one) as butler:
        butler.pending = [assigned(one)]
        with pytest.raises(LedgerFault):
            managing(Away(), butler).run_once()
        assert butler.claimed == []


@pytest.mark.parametrize("answer", [None, {"pending": []}, "x", [{}] * 1001])
def test_what_is_no_list_is_nonsense(answer: object) -> None:
    with stub_butler() as butler:
        butler.instead["/managed/pending"] = document(200, answer)
        with pytest.raises(ButlerNonsense):
            managing(MemoryDirectory(), butler).run_once()


def test_a_master_token_that_butler_does_not_know_is_denied() -> None:
    with stub_butler() as butler, pytest.raises(ButlerDenied):
        managing(MemoryDirectory(), butler, "mdm_st_" + "x" * 32).run_once()
