"""`steward register`, `orgs` and `deregister`: which organisations, at which Butler, this installation works for.

It prints no token, and what Butler calls itself is shown with control characters escaped. A token that is given with
`--token` stands in the list of processes for as long as the command runs: `-`, MDM_STEWARD_TOKEN and its file do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from steward import ingress, values
from steward.errors import SettingError
from steward.ports import Registration
from steward.printing import as_json as _json
from steward.registering import Waiting, facts, nothing_waits
from steward.settings import Settings
from steward.words import Secret

_MAX_LINE = 4096


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


def told(each: Registration, as_json: bool) -> str:
    """What became of one organisation."""
    if as_json:
        return _json(facts(each, {}))
    who = f"{ingress.shown(each.org_name)} ({each.org_id})"
    if each.deregistered_at is not None:
        return f"deregistered {who}; its keys open no call any more\n"
    return f"registered {who} at {each.butler_url}\n"


def listed(known: Sequence[Registration], as_json: bool, waiting: Waiting = nothing_waits) -> str:
    """All that are, and were, registered, and what waits for each."""
    counted = [(each, waiting(each)) for each in known]
    if as_json:
        return _json([facts(each, counts) for each, counts in counted])
    if not known:
        return "no organisation is registered; run: steward register --token - --butler-url https://...\n"
    return "".join(_line(each, counts) for each, counts in counted)


def _line(each: Registration, waiting: Mapping[str, int]) -> str:
    said = [f"{count} {name} waiting" for name, count in waiting.items() if count]
    said += [each.fault.replace("_", " ")] if each.fault else []
    state = "deregistered" if each.deregistered_at else f"since {each.registered_at:%Y-%m-%d %H:%M} UTC"
    columns = f"{each.org_id}  {ingress.shown(each.org_name):<24}  {each.butler_url:<40}"
    return "  ".join([columns, ", ".join([state, *said])]) + "\n"
