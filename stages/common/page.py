"""Page: the models' answers side by side, in one HTML file that needs no network."""

from pathlib import Path
from typing import Any

import jinja2

# Rows of the table at its top, as in metrics/eval.
FIGURES = (
    *("exact_match", "normalized_exact_match", "rouge_l", "chrf", "stop_rate", "perplexity"),
    *("answer_words_mean", "distinct_1", "distinct_2", "general_perplexity"),
)


def render(
    rows: list[dict[str, Any]],
    totals: dict[str, dict[str, Any]],
    compared: dict[str, dict[str, Any]],
    score: str,
    confidence: float,
) -> str:
    """Fill page.html, and page.css and page.js in it.

    Args:
        rows: answers side by side; texts that ask nothing are left out.
        totals: what eval measured of each model, in the order of the columns.
        compared: what `stages.common.pairs` found for pairs of them.
        score: what decides where a row is won or lost.
        confidence: of the intervals.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # and `tojson` writes no character that could end the script around it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html").render(
        models=list(totals),
        rows=[row for row in rows if "question" in row],
        totals=totals,
        compared=compared,
        score=score,
        confidence=confidence,
        figures=FIGURES,
    )


def shown(value: float | None) -> str:
    """Give a figure in the digits that a reader needs, a dash where nothing was measured."""
    if value is None:
        return "–"  # noqa: RUF001  a dash, as in print
    return f"{value:,.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
