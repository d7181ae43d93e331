"""Charts as SVG elements inside their page.

The picture stretches to the width of the page. Numbers and names around it are text of the page, so that they do not
shrink on a phone. Each step has its values in a `title` and in `data-says`, which page.js shows under the pointer
and for the arrow keys. An axis begins at 0. Without data there is no picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fastapi import Response
from markupsafe import Markup

from gateway.dashboard.charts import GREY, Table, Times
from gateway.dashboard.render import count, usd
from gateway.reporting.latency_buckets import duration

POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_MAX_TICKS: Final = 4
_STEP: Final = 10
_HEIGHT: Final = 100
_MARK: Final = 3  # half of the stroke that marks a value, so that a value without neighbours is visible
_NICE: Final = (1, 2, 5, 10)
_MAX_LABELS: Final = 4
_OPENING: Final = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {} {}" preserveAspectRatio="none">'
)
_ONE_STEP: Final = Markup(
    '<g class="step" data-says="{}"><title>{}</title>'
    '<rect class="hit" x="{}" width="{}" height="{}" fill="transparent"/>{}</g>'
)
_LINE: Final = Markup('<path class="line" d="{}" stroke="{}" fill="none" vector-effect="non-scaling-stroke"/>')
_BAR: Final = Markup('<rect x="{}" y="{:.3f}" width="{}" height="{:.3f}" fill="{}"/>')


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart. `ticks`: the axis from the top down to 0; `labels`: some of the steps; `legend`: names and colours."""

    picture: Markup
    ticks: tuple[str, ...]
    labels: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.ticks


def bars(shown: Table, step: str, colours: Mapping[str, str], *, money: bool = False) -> Plot:
    """Draws stacked bars over time, the largest at the bottom."""
    rows = [(start, [float(cell) for cell in cells]) for start, cells in shown.rows]
    return _plot(shown.columns, rows, step, colours, _Bars(_usd if money else _number, adds_up=True))


def lines(shown: Times, step: str, colours: Mapping[str, str]) -> Plot:
    """Draws lines over time: the median of each model. A step without a request interrupts its line."""
    rows = [(start, [cell["median"] if cell else None for cell in cells]) for start, cells in shown.rows]
    return _plot(shown.columns, rows, step, colours, _Bars(duration, adds_up=False))


def as_image(plot: Plot) -> Response:
    """Returns the picture by itself."""
    image = plot.picture or _OPENING.format(1, _HEIGHT) + Markup("</svg>")
    return Response(str(image), media_type="image/svg+xml", headers={"content-security-policy": POLICY})


@dataclass(frozen=True, slots=True)
class _Bars:
    """How values are written, and whether bars are stacked."""

    text: Callable[[float], str]
    adds_up: bool


_Rows = Sequence[tuple[str, Sequence[float | None]]]


def _plot(columns: Sequence[str], rows: _Rows, step: str, colours: Mapping[str, str], how: _Bars) -> Plot:
    known = [[value for value in values if value is not None] for _, values in rows]
    highest = max(((sum(values) if how.adds_up else max(values, default=0)) for values in known), default=0)
    if highest <= 0:
        return Plot(Markup(), (), (), ())
    width, number = _scale(highest)
    top = width * number
    palette = [colours.get(column, GREY) for column in columns]
    draw = _bar_steps if how.adds_up else _line_steps
    parts = [
        _OPENING.format(_STEP * len(rows), _HEIGHT),
        *(_guide(_HEIGHT * tick / number, len(rows)) for tick in range(number)),
        *draw(columns, rows, step, palette, top, how),
        Markup("</svg>"),
    ]
    ticks = tuple(how.text(width * tick) for tick in range(number, 0, -1))
    return Plot(
        Markup("").join(parts),
        (*ticks, "0"),
        tuple(_label(rows[index][0], step) for index in _spread(len(rows))),
        tuple(zip(columns, palette, strict=True)),
    )


def _scale(highest: float) -> tuple[float, int]:
    """Returns the width of a tick and how many there are: 1, 2 or 5 times a power of ten, up to the largest value."""
    power = 10.0 ** (len(f"{highest:.0f}") - 1) if highest >= 1 else 1.0
    while power > highest / _MAX_TICKS:
        power /= 10
    width = next(nice * power for nice in _NICE if nice * power * _MAX_TICKS >= highest)
    return width, max(1, -int(-highest // width))


def _guide(y: float, steps: int) -> Markup:
    return Markup('<path class="guide" d="M0 {:.2f}H{}" vector-effect="non-scaling-stroke"/>').format(y, _STEP * steps)


def _bar_steps(
    columns: Sequence[str], rows: _Rows, step: str, palette: Sequence[str], top: float, how: _Bars
) -> Iterator[Markup]:
    for index, (start, values) in enumerate(rows):
        parts, below = [], 0.0
        for value, colour in zip(values, palette, strict=True):
            height = (value or 0) / top * _HEIGHT
            below += height
            if height > 0:
                parts.append(_BAR.format(index * _STEP + 1.5, _HEIGHT - below, _STEP - 3, height, colour))
        yield _step(index, _says(columns, start, values, step, how), Markup("").join(parts))


def _line_steps(
    columns: Sequence[str], rows: _Rows, step: str, palette: Sequence[str], top: float, how: _Bars
) -> Iterator[Markup]:
    for number, colour in enumerate(palette):
        path, before = "", False
        for index, (_, values) in enumerate(rows):
            value = values[number]
            if value is not None:
                x, y = index * _STEP + _STEP / 2, _HEIGHT * (1 - value / top)
                path += f"{'L' if before else 'M'}{x:g} {y:.2f}M{x - _MARK:g} {y:.2f}h{2 * _MARK}M{x:g} {y:.2f}"
            before = value is not None
        if path:
            yield _LINE.format(path, colour)
    for index, (start, values) in enumerate(rows):
        yield _step(index, _says(columns, start, values, step, how), Markup())


def _step(index: int, says: str, parts: Markup) -> Markup:
    return _ONE_STEP.format(says, says, index * _STEP, _STEP, _HEIGHT, parts)


def _says(columns: Sequence[str], start: str, values: Sequence[float | None], step: str, how: _Bars) -> str:
    """Returns what a step shows, the largest first."""
    known = [(value, column) for column, value in zip(columns, values, strict=True) if value]
    ranked = sorted(known, key=lambda each: -each[0])
    told = [f"{_safe(column)} {how.text(value)}" for value, column in ranked]
    if how.adds_up and len(told) > 1:
        told.insert(0, f"{how.text(sum(value for value, _ in known))} in all")
    return f"{_label(start, step)}: {', '.join(told) or 'nothing'}"


def _spread(steps: int) -> list[int]:
    """Returns the steps whose labels are shown, at even distances from the first to the last."""
    shown = next((number for number in range(min(_MAX_LABELS, steps), 1, -1) if (steps - 1) % (number - 1) == 0), 1)
    return [0] if shown == 1 else [index * (steps - 1) // (shown - 1) for index in range(shown)]


def _label(start: str, step: str) -> str:
    return start[11:16] if step == "hour" else datetime.fromisoformat(start).strftime("%d %b")


def _usd(number: float) -> str:
    return usd(f"{number:.9f}")


def _number(number: float) -> str:
    return count(round(number)) if number >= 1 or number == 0 else f"{number:.3g}"


def _safe(text: str) -> str:
    """Removes control characters, which XML does not permit."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
