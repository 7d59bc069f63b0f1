"""For hosts whose processes are short-lived: the newest price list, and a quick look at bodies nobody has any more.

Additive. Making the index reads the calls once, and calls being written wait so long.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

_PRICES = """
CREATE TABLE price_list (
    id smallint PRIMARY KEY CHECK (id = 1),
    fetched_at timestamptz NOT NULL,
    document bytea NOT NULL CHECK (octet_length(document) <= 8388608)
)
"""


def upgrade() -> None:
    """Adds a table and an index."""
    op.execute(_PRICES)
    op.execute("CREATE INDEX llm_requests_pending ON llm_requests (id) WHERE body_state = 'pending'")


def downgrade() -> None:
    """The list can be fetched again, but what newer rows say is never undone: there is no way back."""
    raise NotImplementedError
