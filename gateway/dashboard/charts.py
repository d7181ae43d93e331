"""The data of charts: the same rows as the tables beside them. Pure. plots.py draws them.

table(usage, figure)   a figure by step and model, the largest model first
times(usage)           durations by step and model, the slowest model first
refusals(usage, name)  refusals by step and reason, the most frequent reason first
colours(names)         a colour for each name, the same on every chart and page that knows the same names
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from gateway.accounts.periods import zone_of
from gateway.reporting.report_steps import ReportSteps

MAX_SERIES: Final = 6
OTHERS: Final = "others"
GREY: Final = "#868e96"
PALETTE: Final = (
    *("#4263eb", "#0ca678", "#f08c00", "#e64980", "#7048e8", "#15aabf", "#c92a2a", "#74b816", "#8f5a3c", "#be4bdb"),
    *("#2b8a3e", "#94802a", "#74a9fc", "#5c7080"),
)


@dataclass(frozen=True, slots=True)
class Times:
    """Durations of requests: per step, for each of the most expensive models, {"median", "p95"} in ms, or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[dict[str, Any] | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The data of a chart: a row per step of time, a column per model. The figures are exact."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Decimal, ...]], ...]


def table(usage: dict[str, Any], figure: str) -> Table:
    """Returns a figure of GET /usage?by=model.

    Steps without a request are 0, and small models are added up as others.
    """
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in usage["data"]:
        total[row["model"]] += Decimal(row[figure])
    names = sorted((name for name in total if total[name]), key=lambda name: (-total[name], name))
    shown = tuple(names if len(names) <= MAX_SERIES else names[: MAX_SERIES - 1])
    cells: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in usage["data"]:
        column = row["model"] if row["model"] in shown else OTHERS
        cells[row["start"], column] += Decimal(row[figure])
    columns = shown if len(shown) == len(names) else (*shown, OTHERS)
    return Table(
        columns,
        tuple((start, tuple(cells[start, column] for column in columns)) for start in _steps(usage)),
    )


def times(usage: dict[str, Any]) -> Times:
    """Returns the total durations of GET /usage?by=model. Medians do not add up, so rare models are left out."""
    timed = [group for group in usage["groups"] if group["total_ms"]]
    used = sorted(timed, key=lambda group: -group["requests"])[:MAX_SERIES]
    columns = tuple(group["model"] for group in sorted(used, key=lambda group: -group["total_ms"]["median"]))
    cells = {(row["start"], row["model"]): row["total_ms"] for row in usage["data"]}
    rows = tuple((start, tuple(cells.get((start, column)) for column in columns)) for start in _steps(usage))
    return Times(columns, rows)


def refusals(usage: dict[str, Any], name: Callable[[dict[str, Any]], str]) -> Table:
    """Returns the refusals of GET /usage?by=model by reason, named by `name`. Rare ones are added up as others."""
    total: Counter[str] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    for row in usage["data"]:
        for refused in row["refusals"]:
            total[name(refused)] += refused["requests"]
            cells[row["start"], name(refused)] += refused["requests"]
    names = [reason for reason, _ in total.most_common()]
    shown = names if len(names) <= MAX_SERIES else names[: MAX_SERIES - 1]
    rest = names[len(shown) :]
    rows = []
    for start in _steps(usage):
        counts = [cells[start, reason] for reason in shown]
        counts += [sum(cells[start, reason] for reason in rest)] if rest else []
        rows.append((start, tuple(map(Decimal, counts))))
    return Table((*shown, OTHERS) if rest else tuple(shown), tuple(rows))


def _steps(usage: dict[str, Any]) -> list[str]:
    steps = ReportSteps(usage["step"], zone_of(usage["timezone"]))
    first, end = (steps.label(_ms(usage[name])) for name in ("from", "to"))
    return [steps.begin(label) for label in range(first, end, steps.width_ms)]


def _ms(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def colours(names: Iterable[str]) -> Mapping[str, str]:
    """Returns a colour for each name: the one that a hash of its text selects, or the next free one."""
    found: dict[str, str] = {OTHERS: GREY}
    taken: set[int] = set()
    for name in sorted(set(names) - {OTHERS}):
        place = int.from_bytes(sha256(name.encode()).digest()[:4], "big") % len(PALETTE)
        free = (place + step for step in range(len(PALETTE)))
        chosen = next((index % len(PALETTE) for index in free if index % len(PALETTE) not in taken), place)
        taken.add(chosen)
        found[name] = PALETTE[chosen]
    return found
