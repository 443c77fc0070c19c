"""Compare: answers side by side, and differences that equal those of the scores."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.common import files
from stages.common.scores import ANSWER_SCORES, MODELS, AnswerRow
from stages.compare import __main__ as stage
from stages.compare.significance import MEANS


def row(match: bool) -> AnswerRow:
    scores = dict.fromkeys(ANSWER_SCORES, float(match))
    return {"answer": "fig", "stopped": True, **scores, "exact_match": match, "loss": 1.0, "tokens": 2}


@pytest.fixture
def answered(tmp_path: Path, params: Callable[..., Path]) -> Callable[..., Path]:
    """Write the files of eval for three rows, the second plain text, and return their folder.

    `changes` are to the last row, by model.
    """

    def write(changes: dict[str, AnswerRow] | None = None) -> Path:
        params()
        for model in MODELS:
            question: AnswerRow = {"question": [{"role": "user", "content": "Which?"}], "reference": "fig"}
            text: AnswerRow = {"text": "A text", "loss": 8.0, "tokens": 8}
            rows = [question | row(model != "base"), text, question | row(False) | (changes or {}).get(model, {})]
            total = dict.fromkeys([*MEANS, "perplexity", "answer_words_mean", "distinct_1", "distinct_2"], 0.5)
            total["general_perplexity"] = 2.0
            folder = tmp_path / "metrics" / "eval"
            files.write_texts(
                {
                    folder / f"{model}.json": files.dump_json(total),
                    folder / f"{model}.answers.jsonl": files.dump_rows(rows),
                }
            )
        for model in ("merge", "awq"):
            files.write_json(tmp_path / "metrics" / f"{model}.json", {"kept": 0.987})
        return folder

    return write


def test_the_answers_of_all_models_are_side_by_side(
    answered: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = answered({"awq": {"answer": "plum"}})
    assert succeed(stage.main) == (
        "merged_base: 1 rows won, 0 lost of 2, p 1.0\nawq_merged: 0 rows won, 0 lost of 2, p 1.0\n"
        "awq_base: 1 rows won, 0 lost of 2, p 1.0\n"
    )
    first, text, last = files.read_rows(folder / "answers.jsonl")
    assert set(text) == {"text", "base", "merged", "awq"}
    assert (first["base"]["exact_match"], first["merged"]["exact_match"]) == (False, True)
    assert (last["question"], last["reference"]) == ([{"role": "user", "content": "Which?"}], "fig")
    assert [last[model]["answer"] for model in MODELS] == ["fig", "fig", "plum"]
    assert "reference" not in last["awq"]
    page = (folder / "answers.html").read_text(encoding="utf-8")
    kept = re.search(r"fine tuning kept</th>(.*?)</tr>", page, re.DOTALL)
    assert kept
    assert re.findall(r"<td>([^<]+)</td>", kept[1])[:3] == ["0.000", "0.987", "0.987"]


def write_answers_to_other_rows(folder: Path) -> None:
    answers = folder / "awq.answers.jsonl"
    answers.write_text(answers.read_text(encoding="utf-8").replace('"reference": "fig"', '"reference": "plum"'))


# How a good folder is spoiled, and the message.
MESSAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "other rows": (
        write_answers_to_other_rows,
        "metrics/eval/awq.answers.jsonl: not the same rows as base.answers.jsonl; run `dvc repro eval`",
    ),
    "no scores": (
        lambda folder: (folder / "merged.json").unlink(),
        "metrics/eval/merged.json: no such file or folder; run `dvc repro` first",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_problem_is_named_and_nothing_is_written(
    answered: Callable[..., Path], fail: Callable[..., str], tmp_path: Path, case: str
) -> None:
    spoil, message = MESSAGES[case]
    spoil(answered())
    assert fail(stage.main) == message
    assert not (tmp_path / "metrics" / "compare.json").exists()


def test_comparing_again_gives_the_same_bytes(
    compared: Path, params: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = params().parent
    outputs = ("--metrics", "compare.json", "--answers", "answers.jsonl", "--page", "answers.html")
    kept = ("--merge", compared / "merge.json", "--awq", compared / "awq.json")
    succeed(stage.main, "--scores", compared / "eval", *kept, *outputs)
    for name, path in (("compare.json", compared), ("answers.jsonl", compared / "eval")):
        assert (folder / name).read_bytes() == (path / name).read_bytes()
    assert (folder / "answers.html").read_bytes() == (compared / "eval" / "answers.html").read_bytes()


def test_differences_equal_those_of_the_scores(compared: Path) -> None:
    found = json.loads((compared / "compare.json").read_text(encoding="utf-8"))
    totals = {model: json.loads((compared / "eval" / f"{model}.json").read_text()) for model in MODELS}
    for one, other in (("merged", "base"), ("awq", "merged"), ("awq", "base")):
        for score in (*MEANS, "perplexity"):
            difference = found[f"{one}_{other}"][score]
            assert difference["difference"] == pytest.approx(totals[one][score] - totals[other][score], abs=2e-6)
            assert difference["low"] <= difference["difference"] <= difference["high"]
