"""The callers: numbered calls at a steady rate over kept connections, and a note of every octet that came back.

Whether a call was lost is not for it to say: it notes what it sent, what it got, and whether the last byte came.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.faults.loop_thread import LoopThread, paced, say
from tests.faults.plays import CREDENTIAL, Kind, answered, asked

_TICK_S = 0.01
_RETRY_S = 0.05
_CALL_WITHIN_S = 60.0


@dataclass(slots=True, eq=False)
class Call:
    """One call as its caller saw it."""

    number: int
    kind: Kind
    key: int
    """Whose: an index into the load's keys."""
    status: int = 0
    """0: no head came."""
    id: UUID | None = None
    body: bytes = field(default=b"", repr=False)
    ended: bool = False
    """The last byte came."""
    code: str = ""
    """Of our own error."""
    took_s: float = 0.0
    """From its first byte to the last that came."""

    @property
    def served(self) -> bool:
        """The provider's whole answer reached the caller: this one must never be lost."""
        return self.ended and self.status == 200

    @property
    def altered(self) -> bool:
        """What came is not the provider's answer, or not the beginning of it."""
        expected = b"".join(answered(self.number, self.kind))
        return self.status == 200 and (self.body != expected if self.ended else not expected.startswith(self.body))


class Load:
    """Callers with a key and a connection each; all that is public may be used from any thread."""

    def __init__(
        self,
        running: LoopThread,
        port: int,
        keys: Sequence[str],
        rate: float,
        mix: Iterable[Kind] = (Kind.PLAIN,),
        numbers: Iterable[int] | None = None,
        callers: int | None = None,
        keep: bool = True,
    ) -> None:
        """`rate`: calls a second, as long as a caller is free; 0: each as fast as its calls are answered.

        `callers`: how many share the keys; one a key unless told. `keep`: bodies are kept with their calls, else
        compared at once and let go.
        """
        self._running = running
        self._port = port
        self._keys = keys
        self._rate = rate
        self._kinds = itertools.cycle(tuple(mix))
        self._numbers = iter(numbers if numbers is not None else itertools.count(1))
        self._callers = callers or len(keys)
        self._keep = keep
        self._turns: asyncio.Queue[None] = asyncio.Queue(self._callers)
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self.calls: list[Call] = []
        """Every call that was begun, in order."""
        self.altered: list[int] = []
        """Numbers whose octets were not the provider's."""
        self.served = 0
        """Answers of the provider that came whole."""

    def start(self) -> None:
        """Calls come from now on."""
        self._running.do(self._start())

    def stop(self, within_s: float = _CALL_WITHIN_S) -> None:
        """No new calls; returns once those that run have ended, however."""
        self._running.do(self._stop(within_s), within_s + 10)

    def wait_for(self, calls: int, wait: Callable[[Callable[[], object], float], None], within_s: float = 60.0) -> None:
        """Returns once so many more were served."""
        before = self.served
        wait(lambda: self.served >= before + calls, within_s)

    async def _start(self) -> None:
        self._ending = False
        self._turns = asyncio.Queue(self._callers)
        self._tasks = [
            asyncio.ensure_future(self._call_again_and_again(each % len(self._keys))) for each in range(self._callers)
        ]
        if self._rate:
            self._tasks.append(asyncio.ensure_future(self._pace()))

    async def _stop(self, within_s: float) -> None:
        self._ending = True
        for task in self._tasks:
            if task.get_name() == "pace":
                task.cancel()
        while not self._turns.full():
            self._turns.put_nowait(None)
        _, late = await asyncio.wait(self._tasks, timeout=within_s)
        for task in late:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for fault in results:
            if isinstance(fault, Exception):
                raise fault
        assert not late, f"{len(late)} calls had no end"

    async def _pace(self) -> None:
        """Lets `rate` calls a second begin; what no caller was free for is not made up."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name("pace")
        loop = asyncio.get_running_loop()
        began, let = loop.time(), 0
        while True:
            due = int((loop.time() - began) * self._rate) - let
            let += due
            for _ in range(due):
                if not self._turns.full():
                    self._turns.put_nowait(None)
            await paced(_TICK_S)

    async def _call_again_and_again(self, key: int) -> None:
        caller = _Connection(self._port)
        try:
            while not self._ending:
                if self._rate:
                    await self._turns.get()
                    if self._ending:
                        return
                if not await caller.connected():
                    await paced(_RETRY_S)
                    continue
                call = Call(next(self._numbers), next(self._kinds), key)
                self.calls.append(call)
                began = asyncio.get_running_loop().time()
                await caller.run(call, self._keys[key])
                call.took_s = asyncio.get_running_loop().time() - began
                self._note(call)
        finally:
            caller.drop()

    def _note(self, call: Call) -> None:
        self.served += call.served
        if call.altered:
            self.altered.append(call.number)
        if not self._keep:
            call.body = b""


class _Connection:
    """One caller's connection, opened anew when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connected(self) -> bool:
        """False when nobody listens."""
        if self._reader is not None and self._reader.at_eof():
            self.drop()
        if self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            except OSError:
                return False
        return True

    def drop(self) -> None:
        """The connection is closed, now."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None

    async def run(self, call: Call, key: str) -> None:
        """Sends it, and notes in it what comes."""
        assert self._reader is not None and self._writer is not None
        body = asked(call.number, call.kind)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {CREDENTIAL}\r\nX-Majordomo-Key: {key}\r\nX-Majordomo-Call: {call.number}\r\n"
            f"X-Call: {call.number}\r\nX-Kind: {call.kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            say(self._writer, head.encode() + body)
            await self._read(call, self._reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.drop()
        except BaseException:
            self.drop()
            raise

    async def _read(self, call: Call, reader: asyncio.StreamReader) -> None:
        head = b""
        while not head or head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
        fields = {}
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        call.status = int(head[9:12])
        call.code = fields.get(b"x-majordomo-error", b"").decode()
        if ident := fields.get(b"x-majordomo-request-id"):
            call.id = UUID(ident.decode())
        if b"content-length" in fields:
            await _read_length(call, reader, int(fields[b"content-length"]))
        else:
            await _read_chunks(call, reader)
            if call.kind is Kind.LEAVE:
                self.drop()
                return
        call.ended = True
        if fields.get(b"connection") == b"close":
            self.drop()


async def _read_length(call: Call, reader: asyncio.StreamReader, length: int) -> None:
    try:
        call.body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as exc:
        call.body = exc.partial
        raise


async def _read_chunks(call: Call, reader: asyncio.StreamReader) -> None:
    pieces = []
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
            if call.kind is Kind.LEAVE:
                return
        await reader.readexactly(2)
    finally:
        call.body = b"".join(pieces)
