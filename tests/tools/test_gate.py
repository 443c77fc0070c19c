"""`make gate`: the table, the exit code, and what to check."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from recorded import LIMITS, METRICS
from stage_runs import DEFAULTS, ROOT

from stages.common.params import read_yaml
from stages.report.gates import GATES, judge
from stages.report.params import GatesParams
from tools import gate


def gate_of(folder: Path, changes: dict[str, Any]) -> Result:
    """Run the command on METRICS with changes such as `{"merge": {"kl_mean": 1}}`."""
    limits = GatesParams(**{name.removeprefix("gates."): limit for name, limit in LIMITS.items()})
    metrics = METRICS | {name: METRICS[name] | changed for name, changed in changes.items()}
    (folder / "gates.json").write_text(json.dumps(judge(metrics, limits)), encoding="utf-8")
    (folder / "lineage.json").write_text('{"files": []}', encoding="utf-8")
    return gate_in(folder)


def gate_in(folder: Path) -> Result:
    """Run the command in a folder without models; tests/common/test_folders.py has one with models."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(gate.main, ["--gates", "gates.json", "--lineage", "lineage.json"])


def test_all_pass_in_an_aligned_table(tmp_path: Path) -> None:
    done = gate_of(tmp_path, {})
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["gate", "value", "limit", "margin", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == list(GATES)
    assert {line[lines[0].index("verdict") :] for line in lines[1:]} == {"passed"}
    assert lines[4].split() == ["train_eval_loss", "0.7", "max", "0.7", "0", "passed"]


def test_failed_gates_exit_1_with_what_to_check_and_the_key_of_the_limit(tmp_path: Path) -> None:
    done = gate_of(tmp_path, {"merge": {"kl_mean": 0.5}, "awq": {"size_ratio": 0.75}})
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAILED")] == [
        *("merge_kl_mean", "awq_size_ratio")
    ]
    assert re.search(r"^awq_size_ratio +0.75 +max 0.6 +-0.15 +FAILED$", done.stdout, re.MULTILINE)
    assert done.stderr.splitlines() == [
        f"merge_kl_mean: see {GATES['merge_kl_mean'].hint}",
        f"awq_size_ratio: see {GATES['awq_size_ratio'].hint}",
        "limits: `gates.merge_kl_mean` and the like in params.yaml; see docs/report.md",
    ]


def test_a_gate_that_was_not_measured_is_shown_and_passes(tmp_path: Path) -> None:
    done = gate_of(tmp_path, {"eval/merged": {"stop_rate": None}})
    assert done.exit_code == 0
    assert re.search(r"^merged_stop_rate +- +min 0.98 +- +not measured$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", GATES)
def test_a_hint_names_existing_targets_pages_and_params(name: str) -> None:
    hint = GATES[name].hint
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


def test_without_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    done = gate_in(tmp_path)
    assert done.exit_code == 1
    assert done.stderr == "Error: gates.json: no such file or folder; run `make repro` first\n"


def test_verdicts_on_other_gates_are_refused(tmp_path: Path) -> None:
    gate_of(tmp_path, {})
    verdicts = json.loads((tmp_path / "gates.json").read_text(encoding="utf-8"))
    verdicts["of_old"] = verdicts.pop("awq_size_ratio")
    (tmp_path / "gates.json").write_text(json.dumps(verdicts), encoding="utf-8")
    done = gate_in(tmp_path)
    assert done.exit_code == 1
    assert done.stderr.endswith("not the gates of this code (awq_size_ratio, of_old); run `make repro`\n")
