"""Pairs: wins, tests and intervals against hand counts and another way of computing."""

import math
from typing import Any

import pytest

from stages.common import pairs, scores

DRAWS = pairs.Draws(2000, 0.95, 7)
Row = dict[str, Any]


def row(match: bool = False, **values: Any) -> Row:
    marks = {mark: float(match) for mark in scores.MARKS}
    return {"answer": "fig", "stopped": True, **marks, "exact_match": match, "loss": 1.0, "tokens": 2} | values


def rows_of(matches: str) -> list[Row]:
    return [row(mark == "1") for mark in matches]


def test_rows_won_and_lost_are_counted_and_tested() -> None:
    found = pairs.compare(rows_of("1111111100"), rows_of("0000000110"), "exact_match", DRAWS)
    assert (found["rows"], found["won"], found["lost"]) == (10, 7, 1)
    # Eight coins: 0, 1, 7 or 8 heads come (1 + 8 + 8 + 1) of 256 times.
    assert found["mcnemar_p"] == pytest.approx(18 / 256)
    assert found["exact_match"]["difference"] == 0.6


def test_no_difference_is_no_evidence() -> None:
    found = pairs.compare(rows_of("1100"), rows_of("1100"), "exact_match", DRAWS)
    assert (found["won"], found["lost"], found["mcnemar_p"]) == (0, 0, 1.0)
    assert found["exact_match"] == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_another_score_may_decide() -> None:
    ones, others = [row(chrf=0.4), row(chrf=0.2)], [row(chrf=0.3), row(chrf=0.2)]
    found = pairs.compare(ones, others, "chrf", DRAWS)
    assert (found["won"], found["lost"]) == (1, 0)
    assert pairs.compare(ones, others, "exact_match", DRAWS)["won"] == 0


def test_the_interval_is_paired() -> None:
    """Two models that fail on the same rows differ surely, however much the rows differ from each other."""
    hard = "1" * 50 + "0" * 50
    found = pairs.compare(rows_of("1" + hard[1:]), rows_of("0" + hard[1:]), "exact_match", DRAWS)
    assert found["exact_match"]["high"] - found["exact_match"]["low"] <= 0.03
    shuffled = rows_of("01" * 50)
    apart = pairs.compare(rows_of(hard), shuffled, "exact_match", DRAWS)
    assert apart["exact_match"]["high"] - apart["exact_match"]["low"] > 0.2


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    ones = [row(chrf=math.sin(number) ** 2) for number in range(400)]
    found = pairs.compare(ones, [row(chrf=0.0)] * 400, "chrf", DRAWS)["chrf"]
    values = [one["chrf"] for one in ones]
    mean = sum(values) / 400
    error = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / 400 / 400)
    assert found["difference"] == pytest.approx(mean, abs=1e-6)
    assert (found["low"], found["high"]) == (
        pytest.approx(mean - error, abs=0.2 * error),
        pytest.approx(mean + error, abs=0.2 * error),
    )


def test_perplexity_is_of_all_tokens_and_texts_count() -> None:
    ones = [row(loss=1.0, tokens=1), {"text": "A text", "loss": 8.0, "tokens": 8}]
    others = [row(loss=2.0, tokens=1), {"text": "A text", "loss": 16.0, "tokens": 8}]
    found = pairs.compare(ones, others, "exact_match", DRAWS)
    assert found["rows"] == 1
    assert found["perplexity"]["difference"] == pytest.approx(math.e - math.e**2, abs=1e-5)
    assert found["exact_match"] == {"difference": 0.0, "low": None, "high": None}  # one row has no spread
    nothing = pairs.compare(ones[1:], others[1:], "exact_match", DRAWS)
    assert (nothing["rows"], nothing["mcnemar_p"], nothing["exact_match"]) == (0, None, None)
