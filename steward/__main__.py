"""`python -m steward`: the same as the `steward` command."""

from __future__ import annotations

import sys

from steward.cli import main

if __name__ == "__main__":
    sys.exit(main())
