"""`steward egress tail` and `verify`: what left for Butler, call by call, and whether the log still says so.

It shows what was sent only when asked (`--content`), with everything escaped that would move a terminal's cursor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO
from uuid import UUID

import orjson

from steward.ports import Checkpoint, Departed, EgressLog, Walked

EVERY_S = 1.0
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be shown, and how."""

    newest: int = 20
    follow: bool = False
    as_json: bool = False
    """One object a line."""
    content: bool = False


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def tail(egress_log: EgressLog, shown: Shown, out: TextIO | None = None, wait: Callable[[float], bool] = _wait) -> int:
    """Prints the newest calls; with `follow` then every new one, until `wait` says no more. Raises LedgerFault."""
    to = out or sys.stdout
    if not shown.as_json:
        to.write(_line("number", "at", "kind", "rows", "octets", "answer", "sha-256"))
    last = 0
    for row in egress_log.newest(shown.newest):
        to.write(_told(egress_log, row, shown))
        last = row.number
    while shown.follow:
        to.flush()
        page = egress_log.after(last, _PAGE)
        for row in page:
            to.write(_told(egress_log, row, shown))
            last = row.number
        if not page and not wait(EVERY_S):
            break
    return 0


def verify(egress_log: EgressLog, as_json: bool, out: TextIO | None = None) -> int:
    """Walks all of the log: 0 when it is whole, 1 with the first row that is not. Raises LedgerFault.

    What was let go for its age is told, and is no break.
    """
    newest = egress_log.newest(1)
    calls = newest[0].number if newest else 0
    found = egress_log.walked()
    told = _verdict_as_json(calls, found) if as_json else _verdict(calls, found)
    (out or sys.stdout).write(told)
    return 0 if found.first_broken is None else 1


def _verdict(calls: int, found: Walked) -> str:
    if found.forged:
        return f"broken at {found.first_broken}: what says how many rows were let go is not this Steward's word\n"
    if found.first_broken is not None:
        text = f"broken at {found.first_broken}: this row is not what was written, or one before it is gone\n"
    else:
        text = f"whole: {calls} calls, each bound to the one before\n"
    return text if found.checkpoint is None else text + _let_go(found.checkpoint)


def _let_go(checkpoint: Checkpoint) -> str:
    first, last, made = (f"{at:%Y-%m-%d}" for at in (checkpoint.first_at, checkpoint.last_at, checkpoint.made_at))
    return (
        f"let go: the first {checkpoint.number} of them, of {first} to {last}, the last time on {made} "
        "(EGRESS_LOG_RETENTION)\n"
    )


def _verdict_as_json(calls: int, found: Walked) -> str:
    gone = found.checkpoint
    let_go = None
    if gone is not None:
        times = {"first_at": gone.first_at, "last_at": gone.last_at, "made_at": gone.made_at}
        let_go = {"calls": gone.number, **{name: at.isoformat() for name, at in times.items()}}
    facts = {"calls": calls, "first_broken": found.first_broken, "let_go": let_go, "checkpoint_forged": found.forged}
    return json.dumps(facts, indent=2) + "\n"


def _told(egress_log: EgressLog, row: Departed, shown: Shown) -> str:
    body = egress_log.body(row.number) if shown.content else None
    if shown.as_json:
        content = {"content": None if body is None else orjson.Fragment(body)} if shown.content else {}
        return _safe(orjson.dumps(_facts(row) | content, option=orjson.OPT_UTC_Z).decode()) + "\n"
    answer = "(not known)" if row.answer is None else row.answer
    at = f"{row.at:%Y-%m-%d %H:%M:%S}"
    line = _line(str(row.number), at, row.kind, str(row.count), str(row.bytes), answer, row.sha256[:16])
    if body is not None:
        return line + _safe(body.decode()) + "\n"
    if shown.content and row.bytes:
        return line + "(what was sent is kept of the newest 200 calls alone)\n"
    return line


def _line(*cells: str) -> str:
    widths = (8, 19, 14, 5, 9, 20, 0)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"


def _facts(row: Departed) -> dict[str, object]:
    return {
        "number": row.number,
        "at": row.at,
        "registration_id": _text(row.registration_id),
        "kind": row.kind,
        "target": row.target,
        "count": row.count,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "first_id": _text(row.first_id),
        "last_id": _text(row.last_id),
        "answer": row.answer,
    }


def _text(row_id: UUID | None) -> str | None:
    return None if row_id is None else str(row_id)


def _safe(text: str) -> str:
    """JSON need not escape what moves a terminal's cursor or turns its text around: we do."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
