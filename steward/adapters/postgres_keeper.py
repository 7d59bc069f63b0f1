"""Runs one program as another user, and ends it when whoever started this one is gone, however that went.

Refuses to outlive its starter: its standard input is the lifeline, and nothing is ever read from it. A script of its
own, run by path with `python -I -S`, because only a fresh process may become another user and wait for one child; it
imports nothing of the Steward.

    python -I -S postgres_keeper.py UID GID PROGRAM [ARGUMENT ...]

UID and GID are numbers, or `-` for the user who runs it. The lifeline closed: SIGINT (PostgreSQL's fast shutdown),
then SIGQUIT after ten seconds. Exits with the program's status, 128 + N for signal N.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

GRACE_S = 10.0
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    uid, gid, *command = sys.argv[1:]
    alive, held = os.pipe()
    keeper = os.getpid()
    # Blocked, so that none is lost between fork and exec.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        os.close(alive)
        os.set_inheritable(held, True)
        _become(uid, gid, command, keeper)
    os.close(held)
    for number in SIGNALS:  # only the lifeline decides here
        signal.signal(number, signal.SIG_IGN)
    return _wait(child, alive)


def _become(uid: str, gid: str, command: list[str], keeper: int) -> None:
    """In the child: gives up root, asks to be ended with its parent, and becomes the program."""
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.chdir("/")
        if uid != "-":
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        if sys.platform == "linux":
            # After the change of user, which would clear it. The parent here has one thread, so its end is the
            # keeper's end.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if os.getppid() == keeper:
            os.execv(command[0], command)  # noqa: S606 - the program we were given
    finally:
        os._exit(127)


def _wait(child: int, alive: int) -> int:
    """Until the child ends by itself, or the lifeline does. `alive` ends with the child and all of its own."""
    readable, _, _ = select.select([0, alive], [], [])
    if alive not in readable:
        os.kill(child, signal.SIGINT)
        if not select.select([alive], [], [], GRACE_S)[0]:
            os.kill(child, signal.SIGQUIT)
    deadline = time.monotonic() + GRACE_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
