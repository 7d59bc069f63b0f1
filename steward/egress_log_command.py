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

from steward.ports import Departed, EgressLog

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
    """Walks the log from its first row: 0 when it is whole, 1 with the first row that is not. Raises LedgerFault."""
    newest = egress_log.newest(1)
    calls = newest[0].number if newest else 0
    broken = egress_log.first_broken()
    if as_json:
        text = json.dumps({"calls": calls, "first_broken": broken}, indent=2) + "\n"
    elif broken is None:
        text = f"whole: {calls} calls, each bound to the one before\n"
    else:
        text = f"broken at {broken}: this row is not what was written, or one before it is gone\n"
    (out or sys.stdout).write(text)
    return 0 if broken is None else 1


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
