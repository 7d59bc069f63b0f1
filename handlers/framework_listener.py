"""Our own listener beneath functions-framework, whose servers name no protocol of their own.

The framework serves by uvicorn, alone or as a worker of gunicorn, with `http="auto"`; what that means is a table of
uvicorn's, and this is the one place that writes in it. uvicorn's own protocol takes a head without end, adds the
fields of a trailer to `scope["headers"]`, the very list that the application reads, and tells nobody that a caller
left: behind it nothing can say any more which fields stood in the head (SECURITY F9). Where it could not be put in
place, `cloud_function.py` notices at the call.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

from uvicorn.config import HTTP_PROTOCOLS

from steward.listener import ListenerLimits, listener

Connection = listener(ListenerLimits())
"""One caller's connection; of this process alone, and of every process that is forked from it."""
NAME: Final = f"{__name__}:Connection"


def put_beneath(protocols: MutableMapping[str, str] = HTTP_PROTOCOLS) -> None:
    """From now on a server that asks for any protocol gets ours."""
    protocols["auto"] = NAME
