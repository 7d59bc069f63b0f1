"""`steward register`, `orgs` and `deregister`: which organisations, at which Butler, this installation works for.

It prints no token, and what Butler calls itself is shown with control characters escaped. A token that is given with
`--token` stands in the list of processes for as long as the command runs: `-`, MDM_STEWARD_TOKEN and its file do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from steward import egress, ingress, values
from steward.errors import ButlerDenied, ButlerRejected, SettingError
from steward.ports import ControlPlane, Directory, Registration
from steward.printing import as_json as _json
from steward.settings import Settings
from steward.words import Secret

_MAX_LINE = 4096

OpenButler = Callable[[str, Secret[str]], ControlPlane]


def given_token(argument: str | None, settings: Settings, stdin: TextIO) -> Secret[str]:
    """From the command line, standard input (`-`), or MDM_STEWARD_TOKEN. Raises SettingError; the value is not told."""
    if argument is None:
        if settings.mdm_steward_token is None:
            raise SettingError(
                "register: no token; give --token mdm_st_..., --token - to read one line, or set MDM_STEWARD_TOKEN."
            )
        return settings.mdm_steward_token
    try:
        return values.steward_token(stdin.readline(_MAX_LINE) if argument == "-" else argument)
    except ValueError as refused:
        raise SettingError(f"register: {refused.args[0]}.") from None


def register(directory: Directory, open_butler: OpenButler, url: str, token: Secret[str]) -> Registration:
    """Asks Butler whose the token is, and keeps it. Raises SettingError, ButlerFault, LedgerFault: nothing is kept."""
    butler = open_butler(url, token)
    try:
        said = ingress.identity(butler.ask(egress.Me()))
    except ButlerRejected:
        raise ButlerDenied from None  # who does not know this question is no Butler, or this is not its address
    finally:
        butler.close()
    return directory.register(said, url, token)


def told(each: Registration, as_json: bool) -> str:
    """What became of one organisation."""
    if as_json:
        return _json(_facts(each))
    who = f"{ingress.shown(each.org_name)} ({each.org_id})"
    if each.deregistered_at is not None:
        return f"deregistered {who}; its keys open no call any more\n"
    return f"registered {who} at {each.butler_url}\n"


def listed(known: Sequence[Registration], as_json: bool) -> str:
    """All that are, and were, registered."""
    if as_json:
        return _json([_facts(each) for each in known])
    if not known:
        return "no organisation is registered; run: steward register --token - --butler-url https://...\n"
    return "".join(map(_line, known))


def _facts(each: Registration) -> dict[str, object]:
    return {
        "org_id": each.org_id,
        "org_name": each.org_name,
        "butler_url": each.butler_url,
        "steward_id": each.steward_id,
        "registration_id": each.id,
        "registered_at": each.registered_at,
        "deregistered_at": each.deregistered_at,
    }


def _line(each: Registration) -> str:
    state = "deregistered" if each.deregistered_at else f"since {each.registered_at:%Y-%m-%d %H:%M} UTC"
    return f"{each.org_id}  {ingress.shown(each.org_name):<24}  {each.butler_url:<40}  {state}\n"
