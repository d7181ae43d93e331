"""Shares the metrics of the workers of one gateway, so that any worker can answer for all.

    directory/<pid>-<random>.json   a worker's report: {"absorbed": [files], "counters": ..., "gauges": ...}

Each worker rewrites its file once per second and at its end. Counters outlive their worker, because a sum must never
fall: Prometheus would take that for a restart. Gauges count while their worker lives. A worker that starts takes over
the counters of dead workers and removes their files. "absorbed" makes this safe at every step: a file that is named
there is not counted any more. A worker killed with `kill -9` loses what it counted in its last second.

The directory belongs to one supervisor and is removed with it (`directory_for_workers`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from gateway.observability.metrics.counters import Snapshot, added

VARIABLE: Final = "GATEWAY_METRICS_DIR"
"""The variable in which a supervisor passes the directory to its workers."""
EVERY_S: Final = 1.0
_LOCK: Final = ".lock"
_PREFIX: Final = "run-"


@dataclass(frozen=True, slots=True)
class Report:
    """One worker's file."""

    counters: Snapshot
    gauges: Snapshot
    absorbed: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Reads a file. Returns None if it is gone, cannot be read, or is no report: then it counts nothing."""
        try:
            fields = orjson.loads(path.read_bytes())
            return cls(_loaded(fields["counters"]), _loaded(fields["gauges"]), tuple(fields["absorbed"]))
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        """Replaces the file atomically."""
        fields = {"absorbed": self.absorbed, "counters": _plain(self.counters), "gauges": _plain(self.gauges)}
        draft = path.with_suffix(".new")
        draft.write_bytes(orjson.dumps(fields))
        draft.rename(path)


class SharedMetrics:
    """One worker's report and its view of the others. Mutable: the counters that it took over from dead workers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{os.urandom(4).hex()}.json"
        self._inherited: Snapshot = {}
        self._absorbed: tuple[str, ...] = ()

    def take_over(self) -> None:
        """Takes over the counters of dead workers, before the first report. Raises OSError."""
        with _locked(self._directory):
            dead = {name: report for name, report in self._reports().items() if not _lives(name)}
            self._inherited = added(report.counters for report in dead.values())
            self._absorbed = tuple(dead)
            self._report({}, {}).write(self._path)
            for name in dead:
                with contextlib.suppress(OSError):  # it is absorbed, so that it counts no more in any case
                    (self._directory / name).unlink()

    def publish(self, counters: Snapshot, gauges: Snapshot) -> None:
        """Writes this worker's report. If that fails (a full disk, a removed directory), the last report stays."""
        with contextlib.suppress(OSError):
            self._report(counters, gauges).write(self._path)

    def total(self, counters: Snapshot, gauges: Snapshot) -> Snapshot:
        """Returns the sum of all workers: this one as it is now, the others as last written."""
        self.publish(counters, gauges)
        mine = self._report(counters, gauges)
        with _locked(self._directory):
            reports = self._reports(mine)
        live = [report.gauges for name, report in reports.items() if _lives(name)]
        return added([*(report.counters for report in reports.values()), *live])

    def _report(self, counters: Snapshot, gauges: Snapshot) -> Report:
        return Report(added([self._inherited, counters]), gauges, self._absorbed)

    def _reports(self, mine: Report | None = None) -> dict[str, Report]:
        found = {path.name: Report.read(path) for path in self._directory.glob("*.json")}
        found |= {self._path.name: mine}
        reports = {name: report for name, report in found.items() if report is not None}
        absorbed = {name for report in reports.values() for name in report.absorbed}
        return {name: report for name, report in reports.items() if name not in absorbed}


@contextlib.contextmanager
def directory_for_workers(data_dir: Path) -> Iterator[Path]:
    """Creates a supervisor's directory and removes it at the end, with the directories of killed supervisors."""
    home = data_dir / "metrics"
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    try:
        with (directory / _LOCK).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Excludes take-overs during a sum, and of each other.

    It is not `_LOCK`, which the supervisor holds all its life.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context((directory / ".turn").open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lives(name: str) -> bool:
    try:
        os.kill(int(name.partition("-")[0]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):  # another user's process; a name that is not a worker's
        return name.partition("-")[0].isdigit()
    return True


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    return {name: [[labels, value] for labels, value in series.items()] for name, series in snapshot.items()}


def _loaded(fields: Mapping[str, Any]) -> Snapshot:
    return {name: {tuple(labels): value for labels, value in series} for name, series in fields.items()}
