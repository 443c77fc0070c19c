"""Charts: points, ticks and bars lie where their values say, and empty ones are left out."""

import math

import pytest

from tools.report_page.charts import (
    BOTTOM,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    Axis,
    bar_chart,
    interval_chart,
    line_chart,
    shown,
)


def test_a_line_runs_from_edge_to_edge_and_up_is_more() -> None:
    chart = line_chart("loss", {"train": [(0, 0.0), (50, 1.0), (100, 4.0)]})
    assert chart
    (line,) = chart["lines"]
    assert [place[:2] for place in line["places"]] == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, 150), (RIGHT, TOP)]
    assert line["told"] == "train: 0 at step 0, 4 at step 100"
    assert [text for _, text in chart["x"]] == ["0", "20", "40", "60", "80", "100"]


def test_a_loss_that_falls_far_has_a_logarithmic_axis_with_equal_steps() -> None:
    chart = line_chart("loss", {"train": [(1, 100.0), (2, 10.0), (3, 1.0)]}, logarithmic=True)
    assert chart
    heights = [y for _, y, _, _ in chart["lines"][0]["places"]]
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)
    assert chart["logarithmic"]
    near = line_chart("loss", {"train": [(1, 2.0), (2, 1.0)]}, logarithmic=True)
    assert near
    assert not near["logarithmic"]


def test_a_value_that_is_no_number_is_left_out_and_a_long_line_is_thinned() -> None:
    chart = line_chart("norm", {"norm": [(1, 1.0), (2, math.nan), (3, 2.0)]})
    assert chart
    assert [step for _, _, step, _ in chart["lines"][0]["places"]] == [1, 3]
    long = line_chart("norm", {"norm": [(step, float(step)) for step in range(5000)]})
    assert long
    assert len(long["lines"][0]["places"]) <= MOST_POINTS


def test_without_values_there_is_no_chart() -> None:
    assert line_chart("loss", {"train": [], "val": []}) is None
    assert bar_chart("rows", []) is None
    assert bar_chart("rows", [("0", 0)]) is None
    assert interval_chart("scores", {"chrf": {"base": {"value": None, "low": None, "high": None}}}) is None


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 7, ["0", "2", "4", "6"]),
        (0, 0.002, ["0", "0.0005", "0.001", "0.0015", "0.002"]),
        (-3, 3, ["-2", "0", "2"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, texts: list[str]) -> None:
    assert [text for _, text in Axis(low, high, LEFT, RIGHT).ticks()] == texts


def test_bars_are_as_high_as_their_counts() -> None:
    chart = bar_chart("rows", [("0", 10), ("2", 20), ("4", 0)])
    assert chart
    assert [BOTTOM - bar["y"] for bar in chart["bars"]] == [92, 184, 0]
    assert [bar["label"] for bar in chart["bars"]] == ["0", "2", "4"]


def test_an_interval_lies_around_its_score() -> None:
    found: dict[str, dict[str, float | None]] = {
        "base": {"value": 0.5, "low": 0.4, "high": 0.7},
        "merged": {"value": 1.0, "low": None, "high": None},
    }
    chart = interval_chart("scores", {"exact_match": found})
    assert chart
    base, merged = chart["rows"][0]["marks"]
    assert base["at"]["low"] < base["at"]["value"] < base["at"]["high"] < merged["at"]["value"] == RIGHT
    assert merged["at"]["low"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (0, "0"),
        (3589, "3,589"),
        (1.0, "1"),
        (0.642336, "0.6423"),
        (5.2e-06, "5.2e-06"),
        (56737.2, "56,737"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert shown(value) == text
