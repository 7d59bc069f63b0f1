"""All relays of a spool as the settler sees them: found, read in turn, and cleared away when nothing of them waits.

It settles nothing. Octets that are no record go to the quarantine; a folder that holds something else is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from typing import Final

from steward import log
from steward.adapters.spool_files import OWNER, Folder, adopt, relay_names, segment_name
from steward.adapters.spool_quarantine import Quarantine
from steward.adapters.spool_relay import Relay, Salvage
from steward.adapters.spool_scan import Segment
from steward.seal import Keyring
from steward.wire.frames import Gap

OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})
"""What ails this process, not what it reads."""


class Relays(Salvage):
    """The folder `relays` of a spool."""

    def __init__(self, folder: Folder, keyring: Keyring, quarantine: Quarantine) -> None:
        """Takes the folder over; the quarantine stays its owner's."""
        self._folder = folder
        self._keyring = keyring
        self._quarantine = quarantine
        self._relays: dict[str, Relay] = {}
        self._left: set[str] = set()
        """Folders that cannot be read, or hold something that is not ours."""
        self._lost = 0

    def clear_unfinished(self) -> None:
        """Folders that a process did not live to name, or that a settler emptied and did not live to remove."""
        for name in list(relay_names(self._folder)):
            with contextlib.suppress(OSError):
                self._folder.remove_folder(name)
        for name in self._folder.names():
            if not name.startswith("."):
                continue
            with contextlib.suppress(OSError), contextlib.closing(self._folder.folder(name)) as half:
                handle = adopt(half)
                if handle is not None:
                    half.remove(OWNER)
                    self._folder.remove_folder(name)
                    os.close(handle)

    def look(self, budget: int) -> None:
        """What the relays wrote since the last time, about `budget` octets of it, shared among them."""
        self._find()
        share = max(1, budget // max(1, len(self._relays)))
        for name, relay in list(self._relays.items()):
            if budget <= 0:
                break
            budget -= relay.look(share)
            # Who was looked at comes last the next time.
            self._relays[name] = self._relays.pop(name)
            relay.drop_settled()
            if relay.finished():
                self._leave(name, relay)

    def segments(self) -> Iterator[tuple[Relay, Segment]]:
        """All that are not settled."""
        return ((relay, segment) for relay in self._relays.values() for segment in relay.segments.values())

    def lost(self) -> int:
        """Records known to be missing, those of relays that are gone included."""
        return self._lost + sum(relay.known_lost() for relay in self._relays.values())

    def rest(self) -> None:
        """Gives back the files of segments that were read to their end."""
        for relay in self._relays.values():
            relay.rest()

    def close(self) -> None:
        """Gives back all it holds open. Safe to call twice."""
        for relay in self._relays.values():
            relay.close()
        self._relays.clear()
        self._folder.close()

    def gap(self, relay: Relay, segment: Segment, gap: Gap) -> None:
        """Octets that are no record of the segment's: kept as they are, where the disk has room for them."""
        name = f"{relay.folder.name}.{segment.number:08d}.{gap.start}-{gap.end}"
        log.say("spool_octets_set_aside", logging.ERROR, bytes=gap.end - gap.start)
        try:
            self._quarantine.keep_octets(name, segment.octets(gap.start, gap.end))
        except OSError as exc:
            log.error("spool_quarantine_failed", exc)

    def wreck(self, relay: Relay, segment: Segment) -> bool:
        """A whole segment whose key is damaged: kept as it is; where that cannot be, left where it is."""
        name = segment_name(segment.number)
        log.say("spool_segment_damaged", logging.ERROR, bytes=segment.size_bytes, count=len(segment.lost))
        try:
            self._quarantine.keep_file(relay.folder, name, f"{relay.folder.name}.{name}")
        except OSError as exc:
            log.error("spool_quarantine_failed", exc)
            return False
        return True

    def _find(self) -> None:
        for name in relay_names(self._folder):
            if name in self._relays or name in self._left:
                continue
            try:
                self._relays[name] = Relay(self._folder.folder(name), self._keyring, self)
            except OSError as exc:
                log.error("spool_folder_unreadable", exc)
                if exc.errno in OUT_OF_MEANS:
                    break
                self._left.add(name)

    def _leave(self, name: str, relay: Relay) -> None:
        """A relay is gone and nothing of it waits: so goes its folder."""
        self._lost += relay.known_lost()
        del self._relays[name]
        try:
            if relay.leave():
                self._folder.remove_folder(name)
            else:
                self._left.add(name)
        except OSError as exc:
            log.error("spool_folder_left", exc)
            self._left.add(name)
        finally:
            relay.close()
