"""Gates: value, margin and verdict of each, computed from recorded metrics."""

import json
from typing import Any

import click
import pytest
from recorded import BOUNDS, LIMITS, METRICS, ON_THE_LIMIT

from stages.report.gates import GATES
from stages.report.params import GatesParams, Limit
from stages.report.verdicts import judge

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


# Gates on the difference of two models in a score.
DIFFERENCES = [
    ("merged_exact_match_gain", "merged", "base", "exact_match"),
    ("merged_chrf_gain", "merged", "base", "chrf"),
    ("merged_stop_rate_drop", "merged", "base", "stop_rate"),
    ("merged_tasks_drop", "merged", "base", "tasks_mean"),
    ("awq_exact_match_drop", "awq", "merged", "exact_match"),
    ("awq_exact_match_gain", "awq", "base", "exact_match"),
]


@pytest.mark.parametrize(("gate", "one", "other", "score"), DIFFERENCES, ids=[gate for gate, *_ in DIFFERENCES])
def test_0_minus_0_cannot_be_judged_whatever_the_limit(gate: str, one: str, other: str, score: str) -> None:
    limit = Limit(min=-0.01, reason="a test") if gate.endswith("gain") else Limit(max=0.01, reason="a test")
    limits = GatesParams(**dict(SPECIFIED) | {gate: limit})
    for figure, passed in ((0.0, False), (0.01, True)):
        metrics = json.loads(json.dumps(METRICS))
        metrics[f"eval/{one}"][score] = metrics[f"eval/{other}"][score] = figure
        verdict = judge(metrics, limits)[gate]
        assert (verdict["value"], verdict["margin"], verdict["passed"]) == (0, 0.01, passed)
        assert verdict.get("problem", "").startswith("" if passed else "0 - 0")
        assert ("problem" in verdict) != passed


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


def test_a_gate_whose_value_was_not_measured_cannot_be_judged_and_does_not_pass() -> None:
    scores = ("exact_match", "chrf", "stop_rate", "general_perplexity", "tasks_mean")
    changes: dict[str, Any] = {
        f"eval/{model}.{score}": None for model in ("base", "merged", "awq") for score in scores
    }
    found = verdicts(changes | {"merge.kept": None, "awq.kept": None, "preprocess.rows_read": 0})
    without = {name: verdict for name, verdict in found.items() if verdict["value"] is None}
    assert set(without) == {
        *("merged_exact_match_gain", "merged_stop_rate", "merged_general_perplexity_ratio"),
        *("merged_tasks_drop", "awq_exact_match_drop", "awq_stop_rate", "merged_chrf_gain", "awq_exact_match_gain"),
        *("merged_stop_rate_drop", "merge_kept", "awq_kept", "rows_dropped_share"),
    }
    assert {(verdict["margin"], verdict["passed"]) for verdict in without.values()} == {(None, False)}
    assert without["merged_tasks_drop"]["problem"] == "`eval.tasks` is empty; name tasks there"
    assert all("; " in verdict["problem"] for verdict in without.values())  # what is wrong; what to do


def test_a_gate_that_is_left_out_passes_also_where_it_cannot_be_judged() -> None:
    metrics = METRICS | {"eval/base": METRICS["eval/base"] | {"tasks_mean": None}}
    found = judge(metrics, GatesParams(**dict(SPECIFIED) | {"merged_tasks_drop": None}))["merged_tasks_drop"]
    assert (found["passed"], found["value"], found["limit"]) == (True, None, None)
    assert "problem" not in found


def test_a_gate_that_is_relative_to_a_revision_is_left_to_the_tools() -> None:
    relative = Limit(not_worse_than="v1.0", reason="a test")
    found = judge(METRICS, GatesParams(**dict(SPECIFIED) | {"awq_kept": relative, "awq_size_ratio": relative}))
    assert found["awq_kept"] == {
        "value": 0.9, "limit": None, "bound": "min", "margin": None, "passed": False, "reason": "a test",
        "not_worse_than": "v1.0",
    }  # fmt: skip
    assert found["awq_size_ratio"]["bound"] == "max"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": {}}, "metrics: no `misplaced_weights`, which the gate merge_misplaced_weights needs; "),
        ({"awq": METRICS["awq"] | {"kept": "0.9"}}, "metrics: what the gate awq_kept needs is no number; "),
        ({"awq": METRICS["awq"] | {"kept": True}}, "metrics: what the gate awq_kept needs is no number; "),
        ({"train": []}, "metrics: what the gate train_eval_loss needs is no number; "),
        (
            {"eval/base": METRICS["eval/base"] | {"chrf": "low"}},
            "metrics: what the gate merged_chrf_gain needs is no number; ",
        ),
    ],
    ids=["no key", "text", "a boolean", "a list", "text in a difference"],
)
def test_metrics_that_hold_no_figure_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(click.ClickException) as raised:
        judge(METRICS | changes, SPECIFIED)
    assert raised.value.message == f"{message}run `dvc repro` first"
