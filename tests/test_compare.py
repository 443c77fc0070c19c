"""Compare: answers side by side, differences that are those of the scores, a page that holds every row."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages import compare as stage
from stages.common import files, page, pairs, scores

DRAWS = pairs.Draws(100, 0.95, 7)
Row = dict[str, Any]


def row(match: bool = False, **values: Any) -> Row:
    marks = {mark: float(match) for mark in scores.MARKS}
    return {"answer": "fig", "stopped": True, **marks, "exact_match": match, "loss": 1.0, "tokens": 2} | values


@pytest.fixture
def answered(tmp_path: Path, params: Callable[..., Path]) -> Callable[..., Path]:
    """Write what eval would of three rows, the second a text, changed per model, and give the folder."""

    def write(changes: dict[str, Row] | None = None) -> Path:
        params()
        for model in stage.MODELS:
            question = {"question": [{"role": "user", "content": "Which?"}], "reference": "fig"}
            text = {"text": "A text", "loss": 8.0, "tokens": 8}
            rows = [question | row(model != "base"), text, question | row() | (changes or {}).get(model, {})]
            total = scores.summary(rows, [text]) | {"tasks": {}}
            folder = tmp_path / "metrics" / "eval"
            files.write_texts(
                {
                    folder / f"{model}.json": files.dump_json(total),
                    folder / f"{model}.answers.jsonl": files.dump_rows(rows),
                }
            )
        return folder

    return write


def test_answers_stand_side_by_side(answered: Callable[..., Path], succeed: Callable[..., str]) -> None:
    folder = answered({"awq": {"answer": "plum"}})
    assert succeed(stage.main) == (
        "merged_base: 1 rows won, 0 lost of 2, p 1.0\nawq_merged: 0 rows won, 0 lost of 2, p 1.0\n"
    )
    first, text, last = files.read_rows(folder / "answers.jsonl")
    assert set(text) == {"text", "base", "merged", "awq"}
    assert (first["base"]["exact_match"], first["merged"]["exact_match"]) == (False, True)
    assert (last["question"], last["reference"]) == ([{"role": "user", "content": "Which?"}], "fig")
    assert [last[model]["answer"] for model in stage.MODELS] == ["fig", "fig", "plum"]
    assert "reference" not in last["awq"]


def test_models_that_were_asked_other_things_are_not_compared(
    answered: Callable[..., Path], fail: Callable[..., str], tmp_path: Path
) -> None:
    answered({"awq": {"reference": "plum"}})
    message = "metrics/eval/awq.answers.jsonl: not the rows that base was asked; run `dvc repro eval`"
    assert fail(stage.main) == message
    (answered() / "merged.json").unlink()
    assert fail(stage.main) == "metrics/eval/merged.json: no such file or folder; run `dvc repro` first"
    assert not (tmp_path / "metrics" / "compare.json").exists()


def test_comparing_again_gives_the_same_bytes(
    compared: Path, params: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = params().parent
    outputs = ("--metrics", "compare.json", "--answers", "answers.jsonl", "--page", "answers.html")
    succeed(stage.main, "--scores", compared / "eval", *outputs)
    for name, path in (("compare.json", compared), ("answers.jsonl", compared / "eval")):
        assert (folder / name).read_bytes() == (path / name).read_bytes()
    assert (folder / "answers.html").read_bytes() == (compared / "eval" / "answers.html").read_bytes()


def test_differences_are_those_of_the_scores(compared: Path) -> None:
    found = json.loads((compared / "compare.json").read_text(encoding="utf-8"))
    totals = {model: json.loads((compared / "eval" / f"{model}.json").read_text()) for model in stage.MODELS}
    for one, other in (("merged", "base"), ("awq", "merged")):
        for score in (*pairs.MEANS, "perplexity"):
            rise = found[f"{one}_{other}"][score]
            assert rise["difference"] == pytest.approx(totals[one][score] - totals[other][score], abs=2e-6)
            assert rise["low"] <= rise["difference"] <= rise["high"]


class Reader(HTMLParser):
    """Collect what a page asks the network for, and the text of its scripts."""

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


def test_the_page_holds_every_answer_whatever_is_in_it_and_needs_no_network() -> None:
    evil = "</script><script>alert('1')</script><!-- & \u2028 \"北京\""
    question = {"question": [{"role": "user", "content": evil}], "reference": evil}
    rows = [question | {model: row(answer=f"{model} {evil}") for model in stage.MODELS}, {"text": "A text"}]
    totals = {model: scores.summary([row()], [row()]) for model in stage.MODELS}
    compared = {"merged_base": pairs.compare([row()], [row()], "chrf", DRAWS)}
    reader = Reader()
    reader.feed(text := page.render(rows, totals, compared, "chrf", 0.95))
    assert reader.links == ["data:,"]
    assert re.findall(r"url\(|@import|fetch\(|https?:", text) == []
    assert len(reader.scripts) == 2
    held = json.loads(reader.scripts[0])
    assert held == {"models": list(stage.MODELS), "rows": rows[:1], "score": "chrf"}
