"""Gates: value, margin and verdict of each, computed from recorded metrics."""

import json
from typing import Any

import pytest
from recorded import BOUNDS, LIMITS, METRICS, ON_THE_LIMIT

from stages.report.gates import GATES, judge
from stages.report.params import GatesParams, Limit

SPECIFIED = GatesParams(**{name.removeprefix("gates."): limit for name, limit in LIMITS.items()})


def verdicts(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Judge METRICS with changes such as `{"merge.kl_mean": 1}`."""
    metrics = json.loads(json.dumps(METRICS))
    for dotted, value in changes.items():
        name, key = dotted.split(".")
        metrics[name][key] = value
    return judge(metrics, SPECIFIED)


def test_a_value_on_its_limit_passes() -> None:
    assert verdicts({}) == {
        name: {
            "value": value,
            "limit": value,
            "bound": BOUNDS[name],
            "margin": 0,
            "passed": True,
            "reason": "a test",
        }
        for name, value in ON_THE_LIMIT.items()
    }


# What one gate limits, another may, too: awq - base is merged - base less merged - awq.
BESIDE = {
    "awq_exact_match_drop": {"awq_exact_match_gain"},
    "awq_exact_match_gain": {"awq_exact_match_drop"},
    "awq_perplexity_ratio": {"awq_base_perplexity_ratio"},
    "awq_base_perplexity_ratio": {"awq_perplexity_ratio"},
}
FAILURES: list[tuple[dict[str, Any], str, float, float]] = [
    ({"preprocess.rows_dropped": {"empty_answer": 21}}, "rows_dropped_share", 0.021, -0.001),
    ({"preprocess.rows_without_supervised_tokens": 2}, "rows_without_supervised_tokens", 2, -2),
    ({"preprocess.rows_without_supervised_stop": 1}, "rows_without_supervised_stop", 1, -1),
    ({"train.eval_loss": 0.75}, "train_eval_loss", 0.75, -0.05),
    ({"merge.misplaced_weights": 1}, "merge_misplaced_weights", 1, -1),
    ({"merge.kept": 0.97}, "merge_kept", 0.97, -0.01),
    ({"merge.kl_mean": 0.00101}, "merge_kl_mean", 0.00101, -0.00001),
    ({"merge.top1_agreement": 0.989}, "merge_top1_agreement", 0.989, -0.001),
    ({"eval/merged.exact_match": 0.74}, "merged_exact_match_gain", 0.49, -0.01),
    ({"eval/base.chrf": 0.26}, "merged_chrf_gain", 0.24, -0.01),
    ({"eval/merged.perplexity": 4.1}, "merged_perplexity_ratio", 0.5125, -0.0125),
    ({"eval/merged.stop_rate": 0.97, "eval/base.stop_rate": 0.98}, "merged_stop_rate", 0.97, -0.01),
    ({"eval/merged.stop_rate": 0.95, "eval/merged.fitting_rate": 0.9}, "merged_stop_rate_drop", 0.05, -0.03),
    ({"eval/base.general_perplexity": 15}, "merged_general_perplexity_ratio", 1.333333, -0.083333),
    ({"eval/merged.tasks_mean": 0.25}, "merged_tasks_drop", 0.5, -0.125),
    ({"eval/awq.exact_match": 0.69}, "awq_exact_match_drop", 0.06, -0.01),
    ({"eval/awq.exact_match": 0.69}, "awq_exact_match_gain", 0.44, -0.01),
    ({"awq.kept": 0.89}, "awq_kept", 0.89, -0.01),
    ({"eval/awq.perplexity": 4.4}, "awq_base_perplexity_ratio", 0.55, -0.025),
    ({"eval/awq.perplexity": 4.24}, "awq_perplexity_ratio", 1.06, -0.01),
    ({"awq.size_ratio": 0.61}, "awq_size_ratio", 0.61, -0.01),
    ({"eval/awq.stop_rate": 0.9799}, "awq_stop_rate", 0.9799, -0.0001),
]


@pytest.mark.parametrize(("changes", "gate", "value", "margin"), FAILURES, ids=[gate for _, gate, *_ in FAILURES])
def test_a_value_beyond_its_limit_fails_that_gate_only(
    changes: dict[str, Any], gate: str, value: float, margin: float
) -> None:
    found = verdicts(changes)
    assert (
        {gate}
        <= {name for name, verdict in found.items() if not verdict["passed"]}
        <= {gate} | BESIDE.get(gate, set())
    )
    assert (found[gate]["value"], found[gate]["margin"]) == (value, margin)


def test_every_gate_is_seen_to_fail() -> None:
    assert [gate for _, gate, *_ in FAILURES] == list(GATES)


def test_a_margin_is_above_0_on_the_side_that_passes() -> None:
    found = verdicts({"awq.size_ratio": 0.35, "eval/merged.stop_rate": 1.0})
    assert (found["awq_size_ratio"]["margin"], found["merged_stop_rate"]["margin"]) == (0.25, 0.02)


def test_duplicates_are_not_lost_rows() -> None:
    found = verdicts({"preprocess.rows_dropped": {"duplicate": 900}})
    assert found["rows_dropped_share"]["value"] == 0


def test_nothing_right_before_and_after_is_no_gain_whatever_the_limit() -> None:
    limits = dict(SPECIFIED) | {"merged_exact_match_gain": Limit(min=-0.01, reason="a test")}
    for right, passed in ((0.0, False), (0.01, True)):
        metrics = json.loads(json.dumps(METRICS))
        metrics["eval/base"]["exact_match"] = metrics["eval/merged"]["exact_match"] = right
        verdict = judge(metrics, GatesParams(**limits))["merged_exact_match_gain"]
        assert (verdict["value"], verdict["margin"], verdict["passed"]) == (0, 0.01, passed)


def test_an_answer_longer_than_the_limit_need_not_end() -> None:
    found = verdicts({"eval/merged.fitting_rate": 0.5, "eval/merged.stop_rate": 0.5, "eval/base.stop_rate": 0.4})
    assert (found["merged_stop_rate"]["value"], found["merged_stop_rate"]["passed"]) == (1.0, True)
    assert verdicts({"eval/merged.fitting_rate": 0.0})["merged_stop_rate"]["value"] is None


def test_a_gate_set_to_null_is_not_judged_and_hides_no_value() -> None:
    limits = dict(SPECIFIED) | {"merged_exact_match_gain": None}
    found = judge(METRICS, GatesParams(**limits))["merged_exact_match_gain"]
    assert found == {
        "value": 0.5, "limit": None, "bound": None, "margin": None, "passed": True, "reason": "null in params.yaml",
    }  # fmt: skip


def test_a_gate_whose_value_was_not_measured_passes() -> None:
    scores = ("exact_match", "chrf", "stop_rate", "general_perplexity", "tasks_mean")
    found = verdicts({f"eval/{model}.{score}": None for model in ("base", "merged", "awq") for score in scores})
    without = {name: verdict for name, verdict in found.items() if verdict["value"] is None}
    assert set(without) == {
        *("merged_exact_match_gain", "merged_stop_rate", "merged_general_perplexity_ratio"),
        *("merged_tasks_drop", "awq_exact_match_drop", "awq_stop_rate", "merged_chrf_gain", "awq_exact_match_gain"),
        "merged_stop_rate_drop",
    }
    assert {(verdict["margin"], verdict["passed"]) for verdict in without.values()} == {(None, True)}
