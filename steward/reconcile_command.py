"""`steward reconcile`: prints where rows, bodies and spool disagree; exits 1 when they do.

It decides nothing itself, and prints ids, keys and times, never what was said in a call.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TextIO

import orjson

from steward import ingress
from steward.reconcile import Gap, GapKind, Reconcile, Report
from steward.settings import Settings
from steward.wiring.commands import open_reconcile

SINCE = timedelta(days=7)
SHOWN = 100
"""Gaps of which the table has a line; JSON has all."""


def run(settings: Settings, since: datetime | None, fix: bool, as_json: bool, out: TextIO | None = None) -> int:
    """Returns 0 without a gap, 1 with one, mended or not. Raises SettingError, LedgerFault, StoreFault.

    `since`: from when on; None: the last 7 days.
    """
    with ExitStack() as undo:
        book, store, kept = open_reconcile(settings, undo)
        moment = since or datetime.now(UTC) - SINCE
        report = Reconcile(book, store, kept, lambda: datetime.now(UTC)).run(moment, fix)
    text = _json(report) if as_json else _table(report)
    (out or sys.stdout).write(text)
    return 1 if report.gaps else 0


def _json(report: Report) -> str:
    facts = {
        "rows": report.rows,
        "objects": report.objects,
        "waiting": report.waiting,
        "elsewhere": report.elsewhere.total(),
        "elsewhere_by_place": dict(report.elsewhere),
        "gaps": [_facts(gap) for gap in report.gaps],
    }
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _facts(gap: Gap) -> dict[str, object]:
    return {
        "kind": gap.kind.name.lower(),
        "id": str(gap.id),
        "key": gap.key,
        "requested_at": gap.requested_at,
        "remedy": None if gap.remedy is None else gap.remedy.name.lower(),
    }


def _table(report: Report) -> str:
    counts = Counter(gap.kind for gap in report.gaps)
    lines = [
        f"{'rows':<28}{report.rows:>10,}",
        f"{'objects':<28}{report.objects:>10,}",
        f"{'bodies that wait':<28}{report.waiting:>10,}",
        f"{'bodies in another store':<28}{report.elsewhere.total():>10,}",
        *(f"  {ingress.shown(place)}: {count:,}" for place, count in report.elsewhere.most_common(SHOWN)),
        *(f"{kind.value:<28}{counts[kind]:>10,}" for kind in GapKind),
    ]
    for gap in report.gaps[:SHOWN]:
        remedy = "" if gap.remedy is None else f"  {gap.remedy.value}"
        lines.append(f"{gap.id}  {gap.kind.value}  {gap.key or '-'}{remedy}")
    if len(report.gaps) > SHOWN:
        lines.append(f"and {len(report.gaps) - SHOWN:,} more; --json shows all")
    return "\n".join(lines) + "\n"
