"""How many values a tag has, about: a HyperLogLog of 1,024 registers, 1 KiB a name whatever the number. Pure.

After Flajolet and others, "HyperLogLog" (2007), with linear counting for small numbers; the error is some 3 %.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Final

_BITS: Final = 10
REGISTERS: Final = 1 << _BITS
EMPTY: Final = bytes(REGISTERS)
_ALPHA: Final = 0.7213 / (1 + 1.079 / REGISTERS)


def added(registers: bytes, values: Iterable[str]) -> bytes:
    """The registers once these values were seen too; in any order, any number of times."""
    grown = bytearray(registers)
    for value in values:
        hashed = int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest(), "big")
        place, rest = hashed >> (64 - _BITS), hashed & ((1 << (64 - _BITS)) - 1)
        rank = (64 - _BITS) - rest.bit_length() + 1
        grown[place] = max(grown[place], rank)
    return bytes(grown)


def estimate(registers: bytes) -> int:
    """The number of distinct values, about."""
    raw = _ALPHA * REGISTERS**2 / sum(2.0**-rank for rank in registers)
    empty = registers.count(0)
    if raw <= 2.5 * REGISTERS and empty:
        return round(REGISTERS * math.log(REGISTERS / empty))
    return round(raw)
