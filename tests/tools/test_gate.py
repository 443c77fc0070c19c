"""`make gate`: the table, and what to check. tests/tools/test_gate_models.py runs the command on models."""

import re
from typing import Any

import pytest
from recorded import LIMITS, METRICS
from stage_runs import DEFAULTS, ROOT

from stages.common.params import read_yaml
from stages.report.gates import GATES
from stages.report.params import GatesParams
from stages.report.verdicts import judge
from tools import gate


def judged(changes: dict[str, Any], **limits: Any) -> dict[str, dict[str, Any]]:
    """Judge METRICS with changes such as `{"merge": {"kl_mean": 1}}`, by LIMITS with changes."""
    known = {name.removeprefix("gates."): limit for name, limit in LIMITS.items()}
    metrics = METRICS | {name: METRICS[name] | changed for name, changed in changes.items()}
    return judge(metrics, GatesParams(**known | limits))


def row(verdicts: dict[str, dict[str, Any]], name: str) -> list[str]:
    (line,) = [line for line in gate.table(verdicts) if line.startswith(f"{name} ")]
    return re.split(r" {2,}", line)


def test_all_pass_in_an_aligned_table() -> None:
    verdicts = judged({})
    lines = gate.table(verdicts)
    assert lines[0].split() == ["gate", "value", "limit", "margin", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == list(GATES)
    assert {line[lines[0].index("verdict") :] for line in lines[1:]} == {"passed"}
    assert lines[4].split() == ["train_eval_loss", "0.7", "max", "0.7", "0", "passed"]
    assert list(gate.what_to_check(verdicts)) == []


def test_a_failed_gate_has_what_to_check_and_the_key_of_its_limit() -> None:
    verdicts = judged({"merge": {"kl_mean": 0.5}, "awq": {"size_ratio": 0.75}})
    failed = [line.split()[0] for line in gate.table(verdicts) if line.endswith("FAILED")]
    assert failed == ["merge_kl_mean", "awq_size_ratio"]
    assert row(verdicts, "awq_size_ratio") == ["awq_size_ratio", "0.75", "max 0.6", "-0.15", "FAILED"]
    assert list(gate.what_to_check(verdicts)) == [
        f"merge_kl_mean: see {GATES['merge_kl_mean'].hint}",
        f"awq_size_ratio: see {GATES['awq_size_ratio'].hint}",
        "limits: `gates.merge_kl_mean` and the like in params.yaml; see docs/report.md",
    ]


def test_a_gate_that_cannot_be_judged_says_why_and_what_to_do() -> None:
    verdicts = judged({"eval/merged": {"tasks_mean": None}, "eval/base": {"tasks_mean": None}})
    assert row(verdicts, "merged_tasks_drop") == ["merged_tasks_drop", "-", "max 0.375", "-", "CANNOT BE JUDGED"]
    assert next(gate.what_to_check(verdicts)) == (
        "merged_tasks_drop: cannot be judged: `eval.tasks` is empty; name tasks there; "
        "or set the gate to null, which leaves it out"
    )


def test_a_gate_of_null_is_not_judged() -> None:
    verdicts = judged({"eval/merged": {"tasks_mean": None}}, merged_tasks_drop=None)
    assert row(verdicts, "merged_tasks_drop") == ["merged_tasks_drop", "-", "-", "-", "not judged"]
    assert list(gate.what_to_check(verdicts)) == []


@pytest.mark.parametrize("name", GATES)
def test_a_hint_names_existing_targets_pages_and_params(name: str) -> None:
    hint = f"{GATES[name].hint} {GATES[name].unmeasured}"
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)", hint):
        assert f"\n{target}: " in targets
    for page in re.findall(r"docs/\w+\.md", hint):
        assert (ROOT / page).exists()
    params = read_yaml(DEFAULTS)
    for key in re.findall(r"`(\w+(?:\.\w+)+)`", hint):
        section = params
        for part in key.split("."):
            section = section[part]
