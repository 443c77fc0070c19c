"""Charts: where lines, bars and marks lie in a drawing. templates/charts.html writes them as SVG."""

import math
from typing import Any, NamedTuple

WIDTH, HEIGHT = 400, 230  # on a phone a chart has about this width, so that its text stays readable
LEFT, RIGHT, TOP, BOTTOM = 50, 388, 12, 196
MOST_POINTS = 400  # of a line: more than one for each pixel shows nothing more
LOG_FROM = 10  # largest value / smallest value, from which on an axis is logarithmic
TICKS = 5

Chart = dict[str, Any]


class Axis(NamedTuple):
    """One axis: the values at its ends, the places of these, and whether it is logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high, value = (math.log(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (value - low) / ((high - low) or 1), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return place and text of round values between the ends."""
        values = _powers(self.low, self.high) if self.logarithmic else _multiples(self.low, self.high)
        return [(self.at(value), shown(value)) for value in values]


def line_chart(title: str, lines: dict[str, list[tuple[int, float]]], logarithmic: bool = False) -> Chart | None:
    """Place the lines of a chart over training steps; None where there is no point at all.

    Args:
        title: what the values are.
        lines: step and value of each point, by the name of the line. A line of few points gets marks.
        logarithmic: the axis may be, where the values are above zero and far apart.
    """
    lines = {name: points for name, points in lines.items() if points}
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points if math.isfinite(value)]
    if not values:
        return None
    low, high = min(values), max(values)
    logarithmic = logarithmic and low > 0 and high / low > LOG_FROM
    if not logarithmic:
        low = min(low, 0)
    x = Axis(min(0, *steps), max(*steps, 1), LEFT, RIGHT)
    y = Axis(low, high if high > low else low + 1, BOTTOM, TOP, logarithmic)
    drawn = []
    for name, points in lines.items():
        kept = points[:: math.ceil(len(points) / MOST_POINTS)]
        places = [(x.at(step), y.at(value), step, value) for step, value in kept if math.isfinite(value)]
        marks = places if len(places) <= MOST_POINTS / 20 else []
        (first, start), (last, end) = points[0], points[-1]
        told = f"{name}: {shown(start)} at step {first}, {shown(end)} at step {last}"
        drawn.append({"name": name, "places": places, "marks": marks, "told": told, "end": end})
    return {"title": title, "lines": drawn, "x": x.ticks(), "y": y.ticks(), "logarithmic": logarithmic}


def bar_chart(title: str, bars: list[tuple[str, int]]) -> Chart | None:
    """Place upright bars side by side; None where there is nothing to count."""
    most = max((count for _, count in bars), default=0)
    if not most:
        return None
    y, width = Axis(0, most, BOTTOM, TOP), (RIGHT - LEFT) / len(bars)
    every = math.ceil(len(bars) / 8)
    drawn = [
        {
            "x": round(LEFT + place * width, 1),
            "y": y.at(count),
            "width": round(width * 0.86, 1),
            "name": name,
            "count": count,
            "label": name if place % every == 0 else "",
        }
        for place, (name, count) in enumerate(bars)
    ]
    return {"title": title, "bars": drawn, "y": y.ticks()}


def interval_chart(title: str, scores: dict[str, dict[str, dict[str, float | None]]]) -> Chart | None:
    """Place scores from 0 to 1 as dots with their intervals.

    Args:
        title: what the values are.
        scores: for each score and model `value`, `low` and `high`; the bounds may be None.
    """
    x, step, gap = Axis(0, 1, LEFT + 54, RIGHT), 16, 20
    rows, top = [], TOP
    for score, models in scores.items():
        marks = []
        for model, found in models.items():
            if found["value"] is not None:
                places = {key: None if value is None else x.at(value) for key, value in found.items()}
                marks.append({"model": model, "y": top + 8, "at": places, "found": found})
                top += step
        if marks:
            rows.append({"name": score.replace("_", " "), "y": marks[len(marks) // 2]["y"], "marks": marks})
            top += gap - step // 2
    return {"title": title, "rows": rows, "x": x.ticks(), "bottom": top} if rows else None


def shown(value: float | None) -> str:
    """Format a number for readers: four digits; a dash where nothing was measured."""
    if value is None:
        return "–"  # noqa: RUF001  a dash, as in print
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.0001 else f"{value:.1e}"


def _multiples(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(exponents) <= TICKS else (1,)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in values if low <= value <= high]
