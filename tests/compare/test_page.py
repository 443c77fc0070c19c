"""Page: it holds the answers whatever their text is, and asks no network for anything."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from stages.common.scores import MODELS
from stages.compare.page import SCORES, format_number, render_page


class PageReader(HTMLParser):
    """Collects the links of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        if self.scripts and self.cdata_elem == "script":
            self.scripts[-1] += data


def test_the_page_holds_every_answer_and_needs_no_network() -> None:
    evil = "</script><script>alert('1')</script><!-- & \u2028 \"北京\""
    question = {"question": [{"role": "user", "content": evil}], "reference": evil}
    answers = {model: {"answer": f"{model} {evil}", "stopped": True, "chrf": 0.5} for model in MODELS}
    rows: list[dict[str, Any]] = [question | answers, {"text": "A text"}]
    totals: dict[str, dict[str, Any]] = {model: dict.fromkeys(SCORES, 0.5) for model in MODELS}
    difference = {"difference": 0.0, "low": None, "high": None}
    pair = {"rows": 1, "won": 0, "lost": 0, "mcnemar_p": 1.0, "chrf": difference, "perplexity": None}
    compared = {"merged_base": pair}
    reader = PageReader()
    reader.feed(text := render_page(rows, totals, compared, "chrf", 0.95))
    assert reader.links == ["data:,"]
    assert re.findall(r"url\(|@import|fetch\(|https?:", text) == []
    assert len(reader.scripts) == 2
    held = json.loads(reader.scripts[0])
    assert held == {"models": list(MODELS), "rows": rows[:1], "score": "chrf"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.5, "0.500"), (-0.25, "-0.250"), (0.0001, "1.0e-04"), (56737.2056, "56,737.206"), (None, "–")],  # noqa: RUF001
)
def test_numbers_have_the_digits_that_readers_need(value: float | None, text: str) -> None:
    assert format_number(value) == text
