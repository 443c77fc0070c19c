"""Page: the models' answers side by side in one HTML file, which needs no network."""

from pathlib import Path
from typing import Any

import jinja2

# Scores in the table at the top, as in metrics/eval/MODEL.json.
SCORES = (
    *("exact_match", "normalized_exact_match", "rouge_l", "chrf", "stop_rate", "perplexity"),
    *("answer_words_mean", "distinct_1", "distinct_2", "general_perplexity", "fine_tuning_kept"),
)


def render_page(
    rows: list[dict[str, Any]],
    totals: dict[str, dict[str, Any]],
    compared: dict[str, dict[str, Any]],
    score: str,
    confidence: float,
) -> str:
    """Fill in page.html, which includes page.css and page.js.

    Args:
        rows: answers side by side; rows of plain text are left out.
        totals: metrics/eval/MODEL.json of each model, in the order of the columns, with `fine_tuning_kept`.
        compared: metrics/compare.json.
        score: the score that decides whether a row is won or lost.
        confidence: of the intervals.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # `tojson` also escapes what would end the script element
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shown"] = format_number
    return environment.get_template("page.html").render(
        models=list(totals),
        rows=[row for row in rows if "question" in row],
        totals=totals,
        compared=compared,
        score=score,
        confidence=confidence,
        figures=SCORES,
    )


def format_number(value: float | None) -> str:
    """Format a score for readers; a dash where nothing was measured."""
    if value is None:
        return "–"  # noqa: RUF001  a dash, as in print
    return f"{value:,.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
