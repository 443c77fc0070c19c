"""Scores: against figures worked out by hand and against the libraries' own defaults."""

import math
from typing import Any

import pytest

from stages.common import scores

PAIRS = [
    ("the cat sat on the mat", "the cat lay on a mat"),
    ("Paris.", "It is Paris, of course."),
    ("one two three", "three two one"),
    ("apple, fig", "apple fig"),
    ("A long answer that nothing matches", "?"),
]


def mark(reference: str, answer: str) -> dict[str, Any]:
    (found,) = scores.of_answers([reference], [answer])
    return found


@pytest.mark.parametrize(
    ("reference", "answer", "exact", "normalized"),
    [
        ("fig", "fig", True, True),
        ("fig", " fig\n", True, True),
        ("fig", "Fig", False, True),
        ("The fig.", "a  FIG", False, True),
        ("fig plum", "fig, plum!", False, True),
        ("fig plum", "plum fig", False, False),
        ("fig", "figs", False, False),
        ("A", "A", True, True),
        ("A", "the", False, False),  # SQuAD's rules leave nothing of either
        ("A", "", False, False),
        ("", "", True, True),
        ("?", "!", False, False),
        ("Straße", "STRASSE", False, False),
        ("北京", "北京", True, True),
    ],
)
def test_matches(reference: str, answer: str, exact: bool, normalized: bool) -> None:
    found = mark(reference, answer)
    assert (found["exact_match"], found["normalized_exact_match"]) == (exact, normalized)


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
def test_on_ascii_text_rouge_is_the_librarys_default(reference: str, answer: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert mark(reference, answer)["rouge_l"] == pytest.approx(expected, abs=1e-6)


def test_rouge_counts_the_longest_common_words_in_order() -> None:
    # cat on mat, and one "the": 4 of 6 words on both sides
    assert mark("the cat sat on the mat", "the cat lay on a mat")["rouge_l"] == pytest.approx(4 / 6, abs=1e-6)


def test_rouge_sees_words_of_any_script() -> None:
    assert mark("über Nacht", "Über Berge")["rouge_l"] == 0.5
    assert mark("северный ветер", "южный ветер")["rouge_l"] == 0.5


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
def test_chrf_is_the_librarys(reference: str, answer: str) -> None:
    import sacrebleu

    expected = sacrebleu.sentence_chrf(answer, [reference]).score / 100
    assert mark(reference, answer)["chrf"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["fig", "?", "", "北京", "5", "a b c d e f g"])
def test_what_equals_its_reference_scores_one_throughout(text: str) -> None:
    assert set(mark(text, text).values()) == {1}


def row(answer: str, **values: Any) -> dict[str, Any]:
    marks = dict.fromkeys(scores.MARKS, 0.0)
    return {"answer": answer, "stopped": True, **marks, "loss": 1.0, "tokens": 2} | values


def test_the_summary_adds_up_by_hand() -> None:
    rows = [
        row("fig fig plum", exact_match=True, chrf=1.0, loss=3.0, tokens=1),
        row("fig plum", stopped=False, loss=1.0, tokens=3),
        row("", chrf=0.5),
        {"text": "A text", "loss": 5.0, "tokens": 4},
    ]
    found = scores.summary(rows, [{"loss": 2.0, "tokens": 4}, {"loss": 4.0, "tokens": 2}])
    assert (found["rows"], found["rows_answered"], found["answer_tokens"]) == (4, 3, 10)
    assert (found["exact_match"], found["chrf"], found["stop_rate"]) == (0.333333, 0.5, 0.666667)
    assert (found["loss"], found["perplexity"]) == (1.0, round(math.e, 6))
    assert found["answer_words_mean"] == 1.666667
    assert found["distinct_1"] == 0.4  # fig and plum, of five words
    assert found["distinct_2"] == 0.666667  # "fig fig" and twice "fig plum"
    assert (found["general_rows"], found["general_tokens"], found["general_loss"]) == (2, 6, 1.0)


def test_an_answer_that_goes_round_in_circles_shows() -> None:
    sound, circling = (scores.distinct([text.split()], 2) for text in ("a b c d e f g h", "a b a b a b a b"))
    assert (sound, circling) == (1.0, 0.285714)


def test_what_no_row_can_have_is_null() -> None:
    text = {"text": "A text", "loss": 5.0, "tokens": 4}
    found = scores.summary([text], [text])
    means = {*scores.MARKS, "stop_rate", "answer_words_mean", "distinct_1", "distinct_2"}
    assert {key for key, value in found.items() if value is None} == means
    one_word = scores.summary([row("fig")], [text])
    assert (one_word["distinct_1"], one_word["distinct_2"]) == (1.0, None)
