"""Answers: the reference of a row, and scores against figures worked out by hand and the libraries' own defaults."""

import math
from typing import Any

import click
import pytest
from noisy_model import NoisyModel

from stages.common import chat
from stages.common.chat import Row
from stages.common.scores import ANSWER_SCORES
from stages.common.tokens import TokenRow
from stages.eval.answers import decode_answer, distinct, fitting_share, reference, score_answer, score_rows, summarize

PAIRS = [
    ("the cat sat on the mat", "the cat lay on a mat"),
    ("Paris.", "It is Paris, of course."),
    ("one two three", "three two one"),
    ("apple, fig", "apple fig"),
    ("A long answer that nothing matches", "?"),
]


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
        ("A", "the", False, False),  # SQuAD's rules leave both empty
        ("A", "", False, False),
        ("", "", True, True),
        ("?", "!", False, False),
        ("Straße", "STRASSE", False, False),
        ("北京", "北京", True, True),
    ],
)
def test_exact_and_normalized_match(reference: str, answer: str, exact: bool, normalized: bool) -> None:
    found = score_answer(reference, answer)
    assert (found["exact_match"], found["normalized_exact_match"]) == (exact, normalized)


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
def test_rouge_l_of_ascii_text_is_the_librarys(reference: str, answer: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert score_answer(reference, answer)["rouge_l"] == pytest.approx(expected, abs=1e-6)


def test_rouge_counts_the_longest_common_words_in_order() -> None:
    # cat on mat, and one "the": 4 of 6 words on both sides
    assert score_answer("the cat sat on the mat", "the cat lay on a mat")["rouge_l"] == pytest.approx(4 / 6, abs=1e-6)


def test_rouge_l_counts_words_of_any_script() -> None:
    assert score_answer("über Nacht", "Über Berge")["rouge_l"] == 0.5
    assert score_answer("северный ветер", "южный ветер")["rouge_l"] == 0.5


@pytest.mark.parametrize(("reference", "answer"), PAIRS)
def test_chrf_is_the_librarys(reference: str, answer: str) -> None:
    import sacrebleu

    expected = sacrebleu.sentence_chrf(answer, [reference]).score / 100
    assert score_answer(reference, answer)["chrf"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["fig", "?", "", "北京", "5", "a b c d e f g"])
def test_an_answer_that_equals_its_reference_scores_one_throughout(text: str) -> None:
    assert set(score_answer(text, text).values()) == {1}


STRICT = r"#### (-?[0-9.,]+)"  # GSM8K's, as lm-evaluation-harness has it


@pytest.mark.parametrize(
    ("reference", "answer", "pattern", "found"),
    [
        ("4*32 = 128\n#### 128", "It is 128.\n#### 128", STRICT, ("128", "128", True)),
        ("#### 128", "#### 12\n#### 128 ", STRICT, ("128", "128", True)),  # the last one counts
        ("#### 128", "128", STRICT, ("128", None, False)),
        ("#### 128", "#### 129", STRICT, ("128", "129", False)),
        ("Friday", "It is Friday.", r"\w+", ("Friday", "Friday", True)),  # no group: all of the match
        ("a=1", "b=2 or a=1", r"b=(\d)|a=(\d)", ("1", "1", True)),  # of several groups the one that took part
    ],
)
def test_a_pattern_compares_what_it_finds_last(
    reference: str, answer: str, pattern: str, found: tuple[str, str | None, bool]
) -> None:
    scores = score_answer(reference, answer, pattern)
    assert (scores["extracted_reference"], scores["extracted"], scores["exact_match"]) == found
    plain = score_answer(reference, answer)
    assert {name: scores[name] for name in ("rouge_l", "chrf")} == {name: plain[name] for name in ("rouge_l", "chrf")}


def test_a_reference_without_the_pattern_is_compared_whole() -> None:
    assert score_answer("none", "none", STRICT) == score_answer("none", "none")
    assert not score_answer("none", "#### 1", STRICT)["exact_match"]


def test_a_pattern_that_is_in_no_reference_is_an_error(noisy_model: NoisyModel) -> None:
    chat_tokenizer = chat.load(noisy_model.folder)
    letter, stop = chat_tokenizer.tokenizer.encode("a").ids[0], min(chat_tokenizer.stop_ids)
    conversation: Row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(
        click.ClickException, match=r"eval\.answer\.pattern: #### .* in no reference answer, such as 'a'"
    ):
        score_rows(
            [conversation], [TokenRow([0, letter, stop], [0, 1, 1])], [1.0], [[letter]], chat_tokenizer, STRICT
        )


def test_references_that_are_longer_than_the_limit_do_not_fit() -> None:
    rows = [TokenRow([0] * 6, [0, 1, 0, 1, 1, 1]), TokenRow([0] * 3, [0, 0, 1])]
    assert [fitting_share(rows, limit) for limit in (0, 1, 2, 3)] == [0, 0.5, 0.5, 1]
    assert fitting_share([], 3) is None


def row(answer: str, **values: Any) -> dict[str, Any]:
    marks = dict.fromkeys(ANSWER_SCORES, 0.0)
    return {"answer": answer, "stopped": True, **marks, "loss": 1.0, "tokens": 2} | values


def test_the_summary_equals_figures_worked_out_by_hand() -> None:
    rows = [
        row("fig fig plum", exact_match=True, chrf=1.0, loss=3.0, tokens=1),
        row("fig plum", stopped=False, loss=1.0, tokens=3),
        row("", chrf=0.5),
        {"text": "A text", "loss": 5.0, "tokens": 4},
    ]
    found = summarize(rows, [{"loss": 2.0, "tokens": 4}, {"loss": 4.0, "tokens": 2}])
    assert (found["rows"], found["rows_answered"], found["answer_tokens"]) == (4, 3, 10)
    assert (found["exact_match"], found["chrf"], found["stop_rate"]) == (0.333333, 0.5, 0.666667)
    assert (found["loss"], found["perplexity"]) == (1.0, round(math.e, 6))
    assert found["answer_words_mean"] == 1.666667
    assert found["distinct_1"] == 0.4  # fig and plum, of five words
    assert found["distinct_2"] == 0.666667  # "fig fig" and twice "fig plum"
    assert (found["general_rows"], found["general_tokens"], found["general_loss"]) == (2, 6, 1.0)


def test_repetition_lowers_distinct_n() -> None:
    varied, repeated = (distinct([text.split()], 2) for text in ("a b c d e f g h", "a b a b a b a b"))
    assert (varied, repeated) == (1.0, 0.285714)


def test_a_score_that_no_row_has_is_null() -> None:
    text = {"text": "A text", "loss": 5.0, "tokens": 4}
    found = summarize([text], [text])
    means = {*ANSWER_SCORES, "stop_rate", "fitting_rate", "answer_words_mean", "distinct_1", "distinct_2"}
    assert {key for key, value in found.items() if value is None} == means
    one_word = summarize([row("fig")], [text])
    assert (one_word["distinct_1"], one_word["distinct_2"]) == (1.0, None)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ("1011111", "ab"),
        ("0011110", "ab"),
        ("0011100", "ab"),
        ("0011000", "ab"),
        ("0111000", "?ab"),
        ("1000000", "!"),
    ],
)
def test_the_reference_is_the_last_run_of_tokens_in_the_loss(noisy_model: NoisyModel, mask: str, text: str) -> None:
    chat_tokenizer = chat.load(noisy_model.folder)
    question, letter_a, letter_b, mark = (chat_tokenizer.tokenizer.encode(text).ids[0] for text in "?ab!")
    stop = min(chat_tokenizer.stop_ids, key=lambda token: token == chat_tokenizer.tokenizer.token_to_id("<|im_end|>"))
    assert chat_tokenizer.tokenizer.decode([stop])  # a special token would decode to nothing anyway
    newline = chat_tokenizer.tokenizer.encode("\n").ids[0]
    row = TokenRow([mark, question, letter_a, letter_b, stop, newline, stop], [int(bit) for bit in mask])
    assert reference(row, chat_tokenizer) == text


def test_rows_get_the_completions_in_order_and_plain_text_gets_none(noisy_model: NoisyModel) -> None:
    chat_tokenizer = chat.load(noisy_model.folder)
    letters = [chat_tokenizer.tokenizer.encode(letter).ids[0] for letter in "ab"]
    stop = min(chat_tokenizer.stop_ids)
    conversation: Row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]}
    rows = [conversation, {"text": "a"}, conversation]
    encoded = [TokenRow([letters[1], letters[0], stop], [0, 1, 1])] * 3
    scored = score_rows(rows, encoded, [1.0, 2.0, 3.0], [[letters[0], stop], letters], chat_tokenizer)
    assert [list(row) for row in scored] == [
        ["question", "reference", "answer", "stopped", *ANSWER_SCORES, "loss", "tokens"],
        ["text", "loss", "tokens"],
        ["question", "reference", "answer", "stopped", *ANSWER_SCORES, "loss", "tokens"],
    ]
    assert [(row.get("answer"), row.get("stopped"), row["loss"]) for row in scored] == [
        ("a", True, 1.0),
        (None, None, 2.0),
        ("ab", False, 3.0),
    ]
    assert (scored[0]["exact_match"], scored[2]["exact_match"]) == (True, False)


def test_an_answer_ends_at_its_first_stop_token(noisy_model: NoisyModel) -> None:
    chat_tokenizer = chat.load(noisy_model.folder)
    letter, stop = chat_tokenizer.tokenizer.encode("a").ids[0], min(chat_tokenizer.stop_ids)
    assert decode_answer([letter, stop, letter, stop], chat_tokenizer) == ("a", True)
    assert decode_answer([letter, letter], chat_tokenizer) == ("aa", False)
