"""Significance: rows won, p-values and intervals, compared with figures worked out another way."""

import math
from typing import Any

import pytest

from stages.common.scores import ANSWER_SCORES, AnswerRow
from stages.compare.significance import Bootstrap, compare_pair

BOOTSTRAP = Bootstrap(2000, 0.95, 7)


def row(match: bool = False, **values: Any) -> AnswerRow:
    scores = dict.fromkeys(ANSWER_SCORES, float(match))
    return {"answer": "fig", "stopped": True, **scores, "exact_match": match, "loss": 1.0, "tokens": 2} | values


def rows_of(matches: str) -> list[AnswerRow]:
    """Make one row of each digit: 1 is an exact match."""
    return [row(match == "1") for match in matches]


def test_rows_won_and_lost_are_counted_and_tested() -> None:
    found = compare_pair(rows_of("1111111100"), rows_of("0000000110"), "exact_match", BOOTSTRAP)
    assert (found["rows"], found["won"], found["lost"]) == (10, 7, 1)
    # Of 256 ways to toss eight coins, 1 + 8 + 8 + 1 give 0, 1, 7 or 8 heads.
    assert found["mcnemar_p"] == pytest.approx(18 / 256)
    assert found["exact_match"]["difference"] == 0.6


def test_equal_models_have_p_1_and_an_empty_interval() -> None:
    found = compare_pair(rows_of("1100"), rows_of("1100"), "exact_match", BOOTSTRAP)
    assert (found["won"], found["lost"], found["mcnemar_p"]) == (0, 0, 1.0)
    assert found["exact_match"] == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_params_choose_the_score_that_decides() -> None:
    ones, others = [row(chrf=0.4), row(chrf=0.2)], [row(chrf=0.3), row(chrf=0.2)]
    found = compare_pair(ones, others, "chrf", BOOTSTRAP)
    assert (found["won"], found["lost"]) == (1, 0)
    assert compare_pair(ones, others, "exact_match", BOOTSTRAP)["won"] == 0


def test_the_interval_is_paired() -> None:
    """Rows that both models fail on do not widen the interval."""
    hard = "1" * 50 + "0" * 50
    found = compare_pair(rows_of("1" + hard[1:]), rows_of("0" + hard[1:]), "exact_match", BOOTSTRAP)
    assert found["exact_match"]["high"] - found["exact_match"]["low"] <= 0.03
    shuffled = rows_of("01" * 50)
    apart = compare_pair(rows_of(hard), shuffled, "exact_match", BOOTSTRAP)
    assert apart["exact_match"]["high"] - apart["exact_match"]["low"] > 0.2


def test_the_interval_of_a_mean_is_close_to_the_normal_approximation() -> None:
    ones = [row(chrf=math.sin(number) ** 2) for number in range(400)]
    found = compare_pair(ones, [row(chrf=0.0)] * 400, "chrf", BOOTSTRAP)["chrf"]
    values = [one["chrf"] for one in ones]
    mean = sum(values) / 400
    error = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / 400 / 400)
    assert found["difference"] == pytest.approx(mean, abs=1e-6)
    assert (found["low"], found["high"]) == (
        pytest.approx(mean - error, abs=0.2 * error),
        pytest.approx(mean + error, abs=0.2 * error),
    )


def test_perplexity_is_over_all_tokens_also_those_of_plain_text() -> None:
    ones = [row(loss=1.0, tokens=1), {"text": "A text", "loss": 8.0, "tokens": 8}]
    others = [row(loss=2.0, tokens=1), {"text": "A text", "loss": 16.0, "tokens": 8}]
    found = compare_pair(ones, others, "exact_match", BOOTSTRAP)
    assert found["rows"] == 1
    assert found["perplexity"]["difference"] == pytest.approx(math.e - math.e**2, abs=1e-5)
    assert found["exact_match"] == {"difference": 0.0, "low": None, "high": None}  # one row has no interval
    nothing = compare_pair(ones[1:], others[1:], "exact_match", BOOTSTRAP)
    assert (nothing["rows"], nothing["mcnemar_p"], nothing["exact_match"]) == (0, None, None)
