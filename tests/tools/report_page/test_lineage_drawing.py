"""Lineage drawing: arrows lead from what is read to what reads it, and no box lies on another."""

from itertools import combinations
from typing import Any

import pytest

from tools.report_page.lineage_drawing import BOX, draw_lineage, shortest


def stage(reads: list[str], writes: str) -> dict[str, Any]:
    return {
        "deps": [{"path": path, "md5": "0" * 32} for path in reads],
        "outs": [{"path": writes, "md5": "0123456789abcdef", "size": 1}],
        "params": {},
    }


@pytest.fixture
def run() -> dict[str, Any]:
    return {
        "data": [{"path": "data/raw/rows.jsonl", "sha256": "ab" * 32, "rows_read": 50}],
        "stages": {
            "awq": stage(["models/merged", "data/prepared/train"], "models/awq"),
            "base": stage([], "models/base"),
            "eval": stage(["models/awq"], "metrics/eval"),
            "merge": stage(["models/base", "data/prepared/train"], "models/merged"),
            "other": stage(["models/base"], "metrics/other"),
            "preprocess": stage(["data/raw", "models/base"], "data/prepared/train"),
            "report": stage(["metrics/eval", "metrics/other", "models/base"], "metrics/gates"),
        },
    }


def test_an_arrow_that_a_longer_way_stands_for_is_left_out(run: dict[str, Any]) -> None:
    assert shortest({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == {"a": set(), "b": {"a"}, "c": {"b"}}
    # data and base to preprocess, then merge, awq, eval, report; and base to other to report
    assert len(draw_lineage(run, downward=False)["lines"]) == 8


@pytest.mark.parametrize("downward", [False, True])
def test_boxes_lie_apart_inside_the_drawing_and_in_the_order_of_the_arrows(
    run: dict[str, Any], downward: bool
) -> None:
    drawing = draw_lineage(run, downward=downward)
    names = {box["name"]: box for box in drawing["boxes"]}
    assert set(names) == {"rows.jsonl", *run["stages"]}
    for one, other in combinations(names.values(), 2):
        assert abs(one["x"] - other["x"]) >= BOX[0] or abs(one["y"] - other["y"]) >= BOX[1]
    for box in names.values():
        assert 0 <= box["x"] <= drawing["width"] - BOX[0]
        assert 0 <= box["y"] <= drawing["height"] - BOX[1]
    along = "y" if downward else "x"
    order = ["rows.jsonl", "preprocess", "merge", "awq", "eval", "report"]
    assert sorted(order, key=lambda name: names[name][along]) == order
    for line in drawing["lines"]:
        assert line[f"{along}1"] < line[f"{along}2"]
    assert drawing["stages"].index("base") == 0
