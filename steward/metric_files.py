"""Counts in files that outlive their process, one set of files for each place a process may take, in one folder.

The files are prometheus-client's, and it adds them up. A process takes the first place whose lock is free and counts
on where the dead one stopped: nothing is lost or doubled by a death, and the files do not grow in number. It maps
nothing that the disk has not given already: a full disk costs numbers that are not shown, never a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import tempfile
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import orjson
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from steward import log
from steward.metric_names import MOST_SETS, OTHER, TABLE, Metric

_PLACES = 256
_ROOM_BYTES = {"counter": 512 * 1024, "histogram": 256 * 1024, "gauge": 32 * 1024}
_HEADER_BYTES = 8
_ENTRY_BYTES = 32
_BLANK = bytes(_HEADER_BYTES)
_KEY_PARTS = 4
_TORN = (struct.error, RuntimeError, ValueError, TypeError, LookupError)
"""What the library meets in a file that is not whole."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_FOR_FOLDED = 40
"""Of a metric's sets: for those whose model is `other`, so that a provider stays told apart when models abound."""
_INFINITE = float("inf")


class Board:
    """Where a process counts. Made before a fork, each child takes a place of its own. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._place: _Place | None = None
        self._said = False
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        if self._place is not None:
            self._place.leave()
            self._place = None

    def add(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Counts. Labels stand in the metric's order; beyond its sets they become `other`. Never raises."""
        self._do(_Place.add, metric, labels, by)

    def put(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        """Sets a gauge. Never raises."""
        self._do(_Place.put, metric, labels, value)

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """One value of a histogram, in its unit. Never raises."""
        self._do(_Place.observe, metric, labels, value)

    def _do(self, what: _Way, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        with self._lock:
            try:
                what(self._mine(), metric, labels, value)
            except Exception as exc:  # a defect of ours: what is counted is worth more than its number
                if not self._said:
                    self._said = True
                    log.error("metrics_failed", exc)

    def _mine(self) -> _Place:
        if self._place is None:
            self._place = _Place(self.folder)
        return self._place

    def close(self) -> None:
        """Gives the place up: its gauges are shown no more, its counts stay."""
        with self._lock:
            if self._place is not None:
                self._place.leave()
                self._place = None

    def text(self) -> bytes:
        """What every process counted, and the gauges of the living, as Prometheus reads it."""
        return generate_latest(_Shown(self.folder))


def temporary_board() -> Board:
    """Where there is no spool: counts that go with the process that made it, and its children."""
    folder = Path(tempfile.mkdtemp(prefix="steward-metrics-"))
    board = Board(folder)
    weakref.finalize(board, _remove, folder, os.getpid())
    return board


def _remove(folder: Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


def prepared_board(folder: Path) -> Board:
    """A board in a folder that is kept. Where no process lives that counts there, what the last ones left goes.

    Raises OSError when the folder cannot be made or written.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder / "lock"):
        if not list(_living(folder)):
            for file in folder.iterdir():
                if file.name != "lock" and not file.is_dir():
                    file.unlink()
    return Board(folder)


class _Place:
    """What one process holds: its lock and its three kinds of files."""

    def __init__(self, folder: Path) -> None:
        self._sheets: dict[str, _Sheet] = {}
        self._cells: dict[tuple[str, tuple[str, ...]], _Cell] = {}
        self._folder = folder
        self._sets = _Sets(folder / "sets")
        self._held, self._number = _taken(folder)

    def leave(self) -> None:
        """Closes what this process holds. What another holds by the same descriptor's copy stays held."""
        for sheet in self._sheets.values():
            sheet.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def add(self, metric: Metric, labels: tuple[str, ...], by: float) -> None:
        cell = self._cell(metric, labels)
        cell.write(0, cell.values[0] + by)

    def put(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        self._cell(metric, labels).write(0, value)

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        cell = self._cell(metric, labels)
        at = 1 + bisect_left(metric.buckets, value)
        cell.write(at, cell.values[at] + 1)
        cell.write(0, cell.values[0] + value)

    def _cell(self, metric: Metric, labels: tuple[str, ...]) -> _Cell:
        cell = self._cells.get((metric.name, labels))
        if cell is not None:
            return cell
        admitted = self._sets.admitted(metric, labels) if metric.bounded else labels
        key = (metric.name, admitted)
        if key not in self._cells:
            self._cells[key] = _Cell(self._sheet(metric), _keys(metric, admitted))
        return self._cells[key]

    def _sheet(self, metric: Metric) -> _Sheet:
        kind = metric.kind if metric.kind in {"counter", "histogram"} else f"gauge_{metric.kind}"
        if kind not in self._sheets:
            path = None if self._held is None else self._folder / f"{kind}_{self._number}.db"
            self._sheets[kind] = _Sheet(path, _ROOM_BYTES[kind.split("_")[0]])
        return self._sheets[kind]


_Way = Callable[[_Place, Metric, tuple[str, ...], float], None]


class _Sheet:
    """One file of values, of a size fixed when it is made. Without room, or a disk, values live in memory alone."""

    def __init__(self, path: Path | None, room: int) -> None:
        self._file = None if path is None else _opened_sheet(path, room)
        self._known = set() if self._file is None else {key for key, _, _ in self._file.read_all_values()}
        self._left = room - _HEADER_BYTES - sum(_entry_bytes(key) for key in self._known)

    def begins(self, keys: Iterable[str]) -> list[float] | None:
        """The values these keys have from the place's last life; None when there is no room for them."""
        wanted = list(keys)
        if self._file is None:
            return None
        new = [key for key in wanted if key not in self._known]
        needed = sum(_entry_bytes(key) for key in new)
        if needed > self._left:
            return None
        self._left -= needed
        self._known.update(new)
        return [self._file.read_value(key)[0] for key in wanted]

    def write(self, key: str, value: float) -> None:
        """One value whose key has begun."""
        if self._file is not None:
            self._file.write_value(key, value, 0.0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Cell:
    """One set of labels of one metric: one value, or a histogram's sum and buckets."""

    __slots__ = ("_keys", "_sheet", "values")

    def __init__(self, sheet: _Sheet, keys: list[str]) -> None:
        begun = sheet.begins(keys)
        self._keys = keys if begun is not None else None
        self._sheet = sheet
        self.values = begun if begun is not None else [0.0] * len(keys)

    def write(self, at: int, value: float) -> None:
        self.values[at] = value
        if self._keys is not None:
            self._sheet.write(self._keys[at], value)


def _opened_sheet(path: Path, room: int) -> MmapedDict | None:
    """The file, with all the room it will ever take; None when the disk has none, or it may not be written."""
    try:
        # A page of a mapped file that a full disk cannot give ends the process: all are asked for beforehand.
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, room)
            if _read(path) is None:
                os.pwrite(descriptor, _BLANK, 0)
        finally:
            os.close(descriptor)
        return MmapedDict(str(path))
    except OSError:
        return None


def _read(path: Path) -> int | None:
    """How many values the file has; None when it is torn."""
    try:
        values = list(MmapedDict.read_all_values_from_file(str(path)))
        whole = all(len(orjson.loads(key)) == _KEY_PARTS for key, *_ in values)
    except (*_TORN, OSError):
        return None
    return len(values) if whole else None


def _entry_bytes(key: str) -> int:
    """The most that the library's file takes for a key and its value."""
    return len(key.encode()) + _ENTRY_BYTES


def _keys(metric: Metric, labels: tuple[str, ...]) -> list[str]:
    """The library's keys of a set: the value's, or the sum's and every bucket's."""
    names, values = list(metric.labels), list(labels)
    if metric.kind != "histogram":
        return [mmap_key(metric.name, metric.shown, names, values, metric.says)]
    bounds = [floatToGoString(bound) for bound in (*metric.buckets, _INFINITE)]
    keys = [mmap_key(metric.name, f"{metric.name}_sum", names, values, metric.says)]
    bucket = f"{metric.name}_bucket"
    return keys + [mmap_key(metric.name, bucket, [*names, "le"], [*values, bound], metric.says) for bound in bounds]


def admissible(metric: Metric, labels: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """What may stand for a set that is new, the first that fits: the set, and how many there must be fewer than."""
    folded = tuple(OTHER if name == "model" else said for name, said in zip(metric.labels, labels, strict=True))
    return (labels, MOST_SETS - _KEPT_FOR_FOLDED), (folded, MOST_SETS - 1)


class _Sets:
    """Which sets of labels a metric has, over all processes and lives: at most `MOST_SETS`, then `other`.

    One file for all, of lines that are only added, read on when a set is met that is not known yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0
        self._known: dict[str, set[tuple[str, ...]]] = {}

    def admitted(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        """These labels, or those that stand for them."""
        known = self._known.setdefault(metric.name, set())
        if labels in known:
            return labels
        last = (OTHER,) * len(labels)
        candidates = admissible(metric, labels)
        folded = candidates[-1][0]
        if len(known) >= MOST_SETS - 1:
            return folded if folded in known else last
        try:
            with _locked(self._path) as descriptor:
                self._read_on(descriptor)
                for candidate, most in candidates:
                    if candidate in known:
                        return candidate
                    if len(known) < most:
                        line = orjson.dumps([metric.name, *candidate]) + b"\n"
                        if os.write(descriptor, line) == len(line):
                            self._read_to += len(line)
                            known.add(candidate)
                            return candidate
        except OSError:  # no room: whoever is new is `other` for now
            return last
        return last

    def _read_on(self, descriptor: int) -> None:
        """What others added. Half a line, cut off by a full disk, is taken away."""
        end = os.fstat(descriptor).st_size
        added = os.pread(descriptor, max(0, end - self._read_to), self._read_to)
        whole = added[: added.rfind(b"\n") + 1]
        self._read_to += len(whole)
        if self._read_to < end:
            os.ftruncate(descriptor, self._read_to)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # torn: its place stays taken in nobody's mind
                name, *labels = orjson.loads(line)
                self._known.setdefault(name, set()).add(tuple(labels))


class _Shown(Collector):
    """What a scrape shows: the library's sum over the files, but for the gauges of places where nobody lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Family]:
        """In the order of the table; what is not in it (an older release's) is not shown."""
        with _locked(self._folder / "lock"):
            living = set(_living(self._folder))
        files = [str(file) for file in sorted(self._folder.glob("*.db")) if _is_shown(file, living)]
        try:
            merged = MultiProcessCollector.merge(files)
        except (*_TORN, OSError):  # one of them: it alone is left out
            merged = MultiProcessCollector.merge([file for file in files if _read(Path(file)) is not None])
        families = {family.name: family for family in merged}
        for metric in TABLE:
            family = families.get(metric.name)
            if family is not None:
                yield family


def _is_shown(file: Path, living: set[int]) -> bool:
    kind, place = file.stem.split("_")[0], file.stem.rpartition("_")[2]
    return kind != "gauge" or int(place) in living


def _taken(folder: Path) -> tuple[int | None, int]:
    """The first free place, locked for this process's life, its last gauges gone. None when there is none."""
    try:
        with _locked(folder / "lock"):
            for number in range(_PLACES):
                descriptor = _held(folder / f"place-{number}")
                if descriptor is not None:
                    for file in folder.glob(f"gauge_*_{number}.db"):
                        _blank(file)
                    return descriptor, number
    except OSError:
        return None, 0
    return None, 0


def _blank(file: Path) -> None:
    """Empties a file in its place: a full disk might not give another."""
    descriptor = os.open(file, _FLAGS, 0o600)
    try:
        os.pwrite(descriptor, _BLANK, 0)
    finally:
        os.close(descriptor)


def _living(folder: Path) -> Iterator[int]:
    """Places whose process lives. The folder's lock is held."""
    for file in folder.glob("place-*"):
        descriptor = _held(file)
        if descriptor is None:
            yield int(file.name.rpartition("-")[2])
        else:
            os.close(descriptor)


def _held(path: Path) -> int | None:
    """A descriptor that holds the file's lock; None when another does."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _opened(path: Path) -> int:
    return os.open(path, _FLAGS | os.O_APPEND, 0o600)


class _locked:  # noqa: N801 - it reads as the word it is: `with _locked(path)`
    """Waits for a file's lock and holds it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _opened(path)

    def __enter__(self) -> int:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self._descriptor

    def __exit__(self, *ended: object) -> None:
        os.close(self._descriptor)
