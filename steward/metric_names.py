"""Every metric the Steward shows: its name, kind, labels and meaning. The dashboard and the alerts use no other.

It counts nothing. Labels are what may leave (SECURITY F4): closed words, or a provider and a model in their domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OTHER = "other"
"""What a label says beyond the bound."""

MOST_SETS = 200
"""Sets of labels one metric may have."""

_FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One name."""

    name: str
    """As it is shown, but for the `_total` of a counter."""
    kind: Literal["counter", "histogram", "livesum", "livemax", "livemin"]
    """A gauge says how those of living processes make one."""
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, in seconds; the last, infinite one goes without saying."""

    @property
    def shown(self) -> str:
        """The name to ask for: a counter's ends in `_total`, a histogram has `_bucket`, `_sum` and `_count`."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def bounded(self) -> bool:
        """Whether what a label may say is not a closed list, so that its sets must be counted."""
        return "provider" in self.labels


CALLS = Metric("steward_calls", "counter", "Calls by how they ended.", ("provider", "model", "status", "outcome"))
TOKENS = Metric("steward_tokens", "counter", "Tokens, where they are known.", ("provider", "model", "kind"))
COST = Metric("steward_cost_usd", "counter", "US dollars, where the price is known.", ("provider", "model"))
UNPRICED = Metric(
    "steward_unpriced_calls", "counter", "Calls with tokens whose price is not known.", ("provider", "model")
)
INTERRUPTED = Metric("steward_interrupted_calls", "counter", "Calls whose process died before their end was known.")
ERRORS = Metric("steward_call_errors", "counter", "Calls that failed, by the code of why.", ("provider", "code"))
OCTETS = Metric("steward_body_bytes", "counter", "Octets of bodies relayed.", ("provider", "side"))
ADDED = Metric(
    "steward_added_seconds",
    "histogram",
    "From a call's head to its first octet on the way to the provider.",
    ("provider",),
    _FAST_S,
)
FIRST_BYTE = Metric(
    "steward_first_byte_seconds", "histogram", "From a call's head to the answer's first octet.", ("provider",), _SLOW_S
)
DURATION = Metric(
    "steward_call_seconds", "histogram", "From a call's head to the answer's last octet.", ("provider",), _SLOW_S
)
ROWS = Metric(
    "steward_rows",
    "counter",
    "Rows written, by where the body is; a row that was pending is written again.",
    ("body_state",),
)
ROWS_REFUSED = Metric("steward_rows_refused", "counter", "Rows the database will not take, each alone at fault.")
POISONED = Metric("steward_poisoned", "counter", "Exchanges that could not be read and were set aside.")
PUTS = Metric("steward_body_puts", "counter", "Tries to store a body, by what the store said.", ("result",))
LEDGER_WRITES = Metric("steward_ledger_writes", "counter", "Statements that wrote rows, by how they went.", ("result",))
REFUSED = Metric("steward_refused_callers", "counter", "Callers turned away before they were known, by why.", ("code",))

SPOOL_ITEMS = Metric("steward_spool_items", "livemax", "Calls that wait to be settled.")
SPOOL_BYTES = Metric("steward_spool_bytes", "livemax", "Octets that wait to be settled.")
SPOOL_LIMIT = Metric("steward_spool_limit_bytes", "livemax", "SPOOL_MAX_BYTES.")
SPOOL_OLDEST = Metric("steward_spool_oldest_seconds", "livemax", "Age of the oldest call that waits.")
SPOOL_BODIES = Metric("steward_spool_bodies", "livemax", "Calls whose row is written and whose body waits.")
QUARANTINE = Metric("steward_quarantine_items", "livemax", "Exchanges and bodies in quarantine.")
LOST = Metric("steward_spool_lost_records", "livemax", "Records of the spool that are known to be missing.")
QUEUE_REFUSED = Metric(
    "steward_queue_refused_messages", "counter", "Messages of the queue that do not open, by why.", ("reason",)
)

EXPORTED = Metric("steward_exported_rows", "counter", "Rows sent to Butler, by what it said.", ("result",))
KEPT_LOCAL = Metric("steward_kept_local_rows", "counter", "Rows of keys made inside that go to no Butler.")
EXPORT_WAITING = Metric("steward_export_waiting_rows", "livemax", "Rows that Butler has not yet, counted to a bound.")
EXPORT_LAG = Metric("steward_export_lag_seconds", "livemax", "Age of the oldest call that Butler has not yet.")

VIEWED = Metric("steward_viewer_acts", "counter", "Bodies asked for in the viewer, by what the account says.", ("act",))

PROCESSES = Metric("steward_processes", "livesum", "Living processes.", ("role",))
READY = Metric("steward_ready", "livemin", "1 when every relaying process takes calls.")
DATABASE_UP = Metric("steward_database_up", "livemin", "1 when the database answered lately.", ("role",))
DATABASE_CONNECTIONS = Metric("steward_database_connections", "livesum", "Connections to the database.", ("state",))
IN_FLIGHT = Metric("steward_calls_in_flight", "livesum", "Calls being relayed.")
CONNECTIONS = Metric("steward_caller_connections", "livesum", "Open connections of callers.")
UPSTREAM = Metric("steward_upstream_connections", "livesum", "Connections to providers, open or opening.")
KEYS = Metric("steward_known_keys", "livemax", "Keys in memory.")
BUTLER_UNHEARD = Metric(
    "steward_butler_unheard_seconds", "livemax", "Longest time since an organisation's Butler was heard."
)
APPROVALS_PENDING = Metric(
    "steward_approvals_pending", "livemax", "What Butler sent and waits for `steward approve`: buckets, provider keys."
)
RESIDENT = Metric("steward_resident_bytes", "livesum", "Resident memory.", ("role",))

TABLE = (
    *(CALLS, TOKENS, COST, UNPRICED, INTERRUPTED, ERRORS, OCTETS, ADDED, FIRST_BYTE, DURATION),
    *(ROWS, ROWS_REFUSED, POISONED, PUTS, LEDGER_WRITES, REFUSED),
    *(SPOOL_ITEMS, SPOOL_BYTES, SPOOL_LIMIT, SPOOL_OLDEST, SPOOL_BODIES, QUARANTINE, LOST, QUEUE_REFUSED),
    *(EXPORTED, KEPT_LOCAL, EXPORT_WAITING, EXPORT_LAG, VIEWED),
    *(PROCESSES, READY, DATABASE_UP, DATABASE_CONNECTIONS, IN_FLIGHT, CONNECTIONS, UPSTREAM, KEYS),
    *(BUTLER_UNHEARD, APPROVALS_PENDING, RESIDENT),
)
