"""`make gate`: the table, the exit code, and what to look at."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from recorded import LIMITS, METRICS

from stages.common import settings
from stages.common.gates import GATES
from stages.common.limits import GatesParams, judge
from tools import gate


def shown(folder: Path, changes: dict[str, Any]) -> Result:
    """Print the gates of METRICS, with changes such as `{"merge": {"kl_mean": 1}}`."""
    limits = GatesParams(**{name.removeprefix("gates."): limit for name, limit in LIMITS.items()})
    metrics = METRICS | {name: METRICS[name] | changed for name, changed in changes.items()}
    (folder / "gates.json").write_text(json.dumps(judge(metrics, limits)), encoding="utf-8")
    (folder / "lineage.json").write_text('{"files": []}', encoding="utf-8")
    return asked(folder)


def asked(folder: Path) -> Result:
    """Ask for the gates of a folder without models: tests/test_folders.py has some."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(gate.main, ["--gates", "gates.json", "--lineage", "lineage.json"])


def test_all_pass_in_an_aligned_table(tmp_path: Path) -> None:
    done = shown(tmp_path, {})
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["gate", "value", "limit", "margin", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == list(GATES)
    assert {line[lines[0].index("verdict") :] for line in lines[1:]} == {"passed"}
    assert lines[4].split() == ["train_eval_loss", "0.7", "max", "0.7", "0", "passed"]


def test_failed_gates_exit_1_with_what_to_look_at_and_the_key_of_the_limit(tmp_path: Path) -> None:
    done = shown(tmp_path, {"merge": {"kl_mean": 0.5}, "awq": {"size_ratio": 0.75}})
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAILED")] == [
        *("merge_kl_mean", "awq_size_ratio")
    ]
    assert re.search(r"^awq_size_ratio +0.75 +max 0.6 +-0.15 +FAILED$", done.stdout, re.MULTILINE)
    assert done.stderr.splitlines() == [
        f"merge_kl_mean: look at {GATES['merge_kl_mean'].look}",
        f"awq_size_ratio: look at {GATES['awq_size_ratio'].look}",
        "limits: `gates.merge_kl_mean` in params.yaml and so on; docs/report.md says more",
    ]


def test_what_was_not_measured_is_seen_and_passes(tmp_path: Path) -> None:
    done = shown(tmp_path, {"eval/merged": {"stop_rate": None}})
    assert done.exit_code == 0
    assert re.search(r"^merged_stop_rate +- +min 0.98 +- +not measured$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", GATES)
def test_a_hint_names_what_there_is(name: str) -> None:
    look = GATES[name].look
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)", look):
        assert f"\n{target}: " in targets
    for page in re.findall(r"docs/\w+\.md", look):
        assert (ROOT / page).exists()
    params = settings.read_yaml(ROOT / "params.yaml")
    for key in re.findall(r"`(\w+(?:\.\w+)+)`", look):
        section = params
        for part in key.split("."):
            section = section[part]


def test_without_a_run_it_says_what_to_do(tmp_path: Path) -> None:
    done = asked(tmp_path)
    assert done.exit_code == 1
    assert done.stderr == "Error: gates.json: no such file or folder; run `make repro` first\n"


def test_a_verdict_on_other_gates_is_none(tmp_path: Path) -> None:
    shown(tmp_path, {})
    verdicts = json.loads((tmp_path / "gates.json").read_text(encoding="utf-8"))
    verdicts["of_old"] = verdicts.pop("awq_size_ratio")
    (tmp_path / "gates.json").write_text(json.dumps(verdicts), encoding="utf-8")
    done = asked(tmp_path)
    assert done.exit_code == 1
    assert done.stderr.endswith("of other gates than today's (awq_size_ratio, of_old); run `make repro`\n")
