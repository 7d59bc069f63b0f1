"""`python -m steward`: the same as the `steward` command."""

from __future__ import annotations

import signal
import sys

# Ctrl-C while the modules load ends the process quietly, as a command's user expects; then it is the command's.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from steward.cli import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
