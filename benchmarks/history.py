"""The series of results, one entry for each recorded commit, and a picture of it.

record(rows, conditions)      adds an entry to benchmarks/history.json, and draws benchmarks/history.svg
draw(entries) -> str          the picture: the CPU time of an answer, as a multiple of nginx's, by commit
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.machine import program

HISTORY: Final = Path(__file__).with_name("history.json")
PICTURE: Final = Path(__file__).with_name("history.svg")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 300, 48, 40, 200, 40


class Series(NamedTuple):
    """One line of the picture. `row` and `other` name a result and what ours is divided by."""

    row: str
    other: str
    label: str
    color: str


SERIES: Final = (
    Series("stream", "nginx", "streams of 100 events", "#0b7285"),
    Series("json", "nginx", "JSON answers", "#c2410c"),
    Series("tls-json", "nginx-tls", "JSON answers, TLS upstream", "#7048e8"),
    Series("bodies", "nginx", "bodies of 5 MB", "#5c940d"),
)
Entry = Mapping[str, Any]


def commit() -> str:
    """The commit that is measured, with `+` where the tree differs from it."""
    command = [program("git"), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=HISTORY.parent, check=True, capture_output=True, text=True)  # noqa: S603 - git
    return done.stdout.strip()


def record(rows: Mapping[str, Mapping[str, Any]], conditions: Mapping[str, str], date: str) -> None:
    """Adds an entry. `rows`: the raw numbers of each row by its name; `date`: ISO 8601."""
    entries = json.loads(HISTORY.read_text(encoding="utf-8")) if HISTORY.exists() else []
    ratios = {name: raw["cpu_ratios"] for name, raw in rows.items() if "cpu_ratios" in raw}
    entries.append({"commit": commit(), "date": date, "conditions": dict(conditions), "cpu_ratios": ratios})
    HISTORY.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(entries), encoding="utf-8")


def draw(entries: Sequence[Entry]) -> str:
    """The picture as SVG. An entry without a series' row is a gap in its line."""
    values = {one: [entry["cpu_ratios"].get(one.row, {}).get(one.other) for entry in entries] for one in SERIES}
    highest = max((value for line in values.values() for value in line if value is not None), default=1.0)
    top = max(2.0, highest * 1.1)
    shapes = [_grid(top), *_names(entries)]
    last_y = float(_TOP)
    for one, line in sorted(values.items(), key=lambda item: -(item[1][-1] or 0) if item[1] else 0):
        points = [(_x(number, len(entries)), _y(value, top)) for number, value in enumerate(line) if value is not None]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{one.color}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{one.color}"/>' for x, y in points]
        last_y = max(points[-1][1] + 4, last_y + 14)
        value = next(value for value in reversed(line) if value is not None)
        shapes.append(_text(points[-1][0] + 8, last_y, f"{one.label}: {value:.1f}", "start", one.color))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#ffffff"/>'
        + _text(_LEFT, 20, "CPU time of an answer (worker and store), as a multiple of nginx's", "start", "#212529")
        + "".join(shapes)
        + "</svg>\n"
    )


def _grid(top: float) -> str:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if top / step <= 6)  # noqa: PLR2004 - lines that fit
    lines = []
    for value in range(0, int(top) + 1, step):
        y = _y(value, top)
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dee2e6"/>')
        lines.append(_text(_LEFT - 6, y + 4, str(value), "end", "#495057"))
    return "".join(lines)


def _names(entries: Sequence[Entry]) -> list[str]:
    y = _HEIGHT - _BOTTOM + 16
    count = len(entries)
    every = max(1, count // 6)
    return [
        _text(_x(number, count), y, str(entry["commit"]), "middle", "#495057")
        for number, entry in enumerate(entries)
        if number % every == 0 or number == count - 1
    ]


def _x(number: int, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (number / (count - 1) if count > 1 else 0.5)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top


def _text(x: float, y: float, text: str, anchor: str, color: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escaped}</text>'
