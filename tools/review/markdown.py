"""Markdown of the review: tables and charts in which no word of a row, name or setting is markup, link or mention.

Such words stand as code, in which GitHub and GitLab look for no @names, #numbers and addresses: in a code span, or,
where they have what ends one, in a <code> element with punctuation as HTML entities, which are no syntax.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tools.common.terminal import visible

DASH = "–"  # noqa: RUF001  where there is nothing
PLAIN = re.compile(r"(?! )[^`|\\]+(?<! )")  # what a code span in a table can hold
# Everything that may be markup inside a line: all but letters, digits, blanks, `_` between letters and the like.
ACTIVE = re.compile(r"[^\w\s.,/=+-]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.", re.IGNORECASE)
POINTS = 20  # of a chart


class Limits(NamedTuple):
    """How much of a review is shown.

    Attributes:
        rows: of a table.
        answers: that are shown side by side.
        width: characters of a cell.
    """

    rows: int
    answers: int
    width: int


def code(text: str, width: int) -> str:
    """Write a text of strangers as code on one line, cut to `width` characters; an empty text is a dash."""
    lines = [visible(line) for line in text.splitlines()]
    short = " ↵ ".join(lines)
    short = short if len(short) <= width else f"{short[: width - 1]}…"
    if PLAIN.fullmatch(short):
        return f"`{short}`"
    return f"<code>{ACTIVE.sub(lambda found: f'&#{ord(found[0])};', short)}</code>" if short.strip() else DASH


def table(header: Sequence[str], rows: Iterable[Sequence[str]], limit: int) -> list[str]:
    """Write a table; without rows, nothing.

    Args:
        header: names of the columns.
        rows: cells, which are Markdown already.
        limit: number of rows to show; a last line counts the others.
    """
    all_rows = list(rows)
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *all_rows[:limit])]
    left_out = ["", f"{len(all_rows) - limit} more are left out."] if len(all_rows) > limit else []
    return [*lines, *left_out] if all_rows else []


def folded(title: str, lines: list[str]) -> list[str]:
    """Put lines where readers open them with a click; nothing stays nothing."""
    return ["", f"<details><summary>{title}</summary>", "", *lines, "", "</details>"] if lines else []


def chart(title: str, curves: list[list[tuple[float, float]]]) -> list[str]:
    """Draw curves over the share of the training as a Mermaid chart, the first one grey, the second one blue.

    GitHub and GitLab draw Mermaid themselves. A picture in a comment needs an address that its readers can open,
    which a file of a CI job has not.

    Args:
        title: name of the axis.
        curves: steps and values of each curve, of at least two points.
    """
    import numpy as np

    lines = []
    for curve in curves:
        steps, values = (np.array(column) for column in zip(*curve, strict=True))
        points = np.interp(np.linspace(steps[0], steps[-1], POINTS), steps, values)
        lines.append(f"  line [{', '.join(f'{point:.4g}' for point in points)}]")
    colours = "#8c959f, #0969da" if len(curves) > 1 else "#0969da"
    return [
        "",
        "```mermaid",
        f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{colours}"}}}}}}}}%%',
        "xychart-beta",
        '  x-axis "% of the training" 0 --> 100',
        f'  y-axis "{title}"',
        *lines,
        "```",
    ]
