"""Charts as SVG, of the same rows as the tables beside them. They are drawn by pygal, without its scripts.

A chart is a separate image. Nothing in it runs, its inline style needs no permission of the page's policy, and it
follows the reader's colour scheme.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from xml.etree.ElementTree import Element

from fastapi import Response

from gateway.protocol.timestamps import iso_time
from gateway.reporting.latency_buckets import duration

MAX_SERIES: Final = 6
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_LEGEND_COLUMNS: Final = 3
_NARROW: Final = 22  # letters that fit into a third of the width
_LEGEND_ROW_PX: Final = 24
_OTHERS: Final = "others"
_COLOURS: Final = ("#4263eb", "#0ca678", "#f08c00", "#d6336c", "#7048e8", "#1098ad", "#868e96")
# !important: the library's own rules name the chart's id.
_CSS: Final = """inline:
.axis text, .legends text, text.no_data { fill: #495057 !important }
.axis .guide.line { stroke: #dee2e6 !important }
.axis .line { stroke: #adb5bd }
.reactive { fill-opacity: 1 !important; stroke-opacity: 0 !important }
.line.reactive { stroke-opacity: 1 !important; stroke-width: 2px !important; fill: none !important }
.series text.value { fill: #fff !important; font-weight: 600 }
@media (prefers-color-scheme: dark) {
.axis text, .legends text, text.no_data { fill: #ced4da !important }
.axis .guide.line { stroke: #373d44 !important }
.axis .line { stroke: #5c636a !important }
}"""


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
    used = {row["model"] for row in usage["data"] if Decimal(row[figure])}
    names = [group["model"] for group in usage["groups"] if group["model"] in used]
    shown = tuple(names if len(names) <= MAX_SERIES else names[: MAX_SERIES - 1])
    cells: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in usage["data"]:
        column = row["model"] if row["model"] in shown else _OTHERS
        cells[row["start"], column] += Decimal(row[figure])
    columns = shown if len(shown) == len(names) else (*shown, _OTHERS)
    return Table(
        columns,
        tuple((start, tuple(cells[start, column] for column in columns)) for start in _steps(usage)),
    )


def times(usage: dict[str, Any]) -> Times:
    """Returns the total durations of GET /usage?by=model. Medians do not add up, so small models are left out."""
    columns = tuple(group["model"] for group in usage["groups"] if group["total_ms"])[:MAX_SERIES]
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
    return Table((*shown, _OTHERS) if rest else tuple(shown), tuple(rows))


def by_time(shown: Table, step: str, unit: str = "") -> Response:
    """Draws stacked bars over time. `unit` precedes the numbers of the axis."""
    rows = [(start, [float(cell) for cell in cells]) for start, cells in shown.rows]
    return _over_time("StackedBar", shown.columns, rows, step, lambda number: f"{unit}{number:,.10g}")


def medians(shown: Times, step: str) -> Response:
    """Draws lines over time: the median of each model."""
    rows = [(start, [cell["median"] if cell else None for cell in cells]) for start, cells in shown.rows]
    return _over_time("Line", shown.columns, rows, step, duration)


def _over_time(
    kind: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    step: str,
    text: Callable[[float], str],
) -> Response:
    widest = max(map(len, columns), default=0)
    legend_columns = _LEGEND_COLUMNS if widest <= _NARROW else _LEGEND_COLUMNS - 1
    legend_rows = -(-len(columns) // legend_columns)
    look = _look(width=640, height=330, legend_rows=legend_rows)
    chart = getattr(_pygal(), kind)(**look, legend_at_bottom_columns=legend_columns)
    labels = [_label(start, step) for start, _ in rows]
    every = max(1, -(-len(labels) // 8))
    chart.value_formatter = text
    chart.x_labels = labels
    chart.x_labels_major = labels[::every]
    chart.show_minor_x_labels = len(labels) <= 8  # noqa: PLR2004 - as many as a phone can show
    for number, column in enumerate(columns):
        chart.add(_safe(column), [values[number] for _, values in rows])
    return _svg(chart)


def _pygal() -> Any:
    """Imports the library with the first chart, because it costs a tenth of a second of start-up time."""
    import pygal  # noqa: PLC0415 - see above
    import pygal.style  # noqa: PLC0415 - see above

    # pygal's plug-in finder uses an import protocol that Python removed, and warns whenever something optional is
    # imported.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]
    return pygal


def _look(*, width: int, height: int, legend_rows: int) -> dict[str, Any]:
    style = _pygal().style.Style(
        background="transparent",
        plot_background="transparent",
        font_family="system-ui, sans-serif",
        label_font_size=14,
        major_label_font_size=14,
        legend_font_size=14,
        value_font_size=13,
        no_data_font_size=18,
        guide_stroke_dasharray="none",
        major_guide_stroke_dasharray="none",
        colors=_COLOURS,
    )
    return {
        "js": [],
        "css": ["file://style.css", "file://graph.css", _CSS],
        "style": style,
        "width": width,
        "height": height + _LEGEND_ROW_PX * max(0, legend_rows - 1),
        "explicit_size": True,
        "margin": 8,
        "margin_bottom": 8 + _LEGEND_ROW_PX * max(0, legend_rows - 1),  # the library leaves room for one row
        "show_legend": legend_rows > 0,
        "legend_at_bottom": True,
        "legend_box_size": 11,
        "truncate_legend": 34,
        "truncate_label": -1,
        "no_data_text": "Nothing yet",
        "min_scale": 2,
        "max_scale": 6,
    }


def _svg(chart: Any) -> Response:
    chart.add_xml_filter(_without_scripts)
    return Response(chart.render(), media_type="image/svg+xml", headers={"content-security-policy": POLICY})


def _without_scripts(root: Element) -> Element:
    for parent in list(root.iter()):
        for child in [child for child in parent if str(child.tag).endswith("script")]:
            parent.remove(child)
    return root


def _steps(usage: dict[str, Any]) -> list[str]:
    step = timedelta(hours=1) if usage["step"] == "hour" else timedelta(days=1)
    at, end = _time(usage["from"]), _time(usage["to"])
    out = []
    while at < end:
        out.append(iso_time(int(at.timestamp() * 1000)))
        at += step
    return out


def _time(iso: str) -> datetime:
    return datetime.fromisoformat(iso).astimezone(UTC)


def _label(start: str, step: str) -> str:
    return start[11:16] if step == "hour" else _time(start).strftime("%d %b")


def _safe(text: str) -> str:
    """Removes control characters, which XML does not permit."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
