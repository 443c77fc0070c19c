"""Gates that are relative to the run of a git revision, judged in a repository whose commits record runs."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from recorded import commit, run
from stage_runs import fail_in, succeed_in

from stages.report import __main__ as report
from tools import gate
from tools.card import __main__ as card
from tools.common import repository
from tools.common.judged_run import SHARED, load_judged, read_verdicts
from tools.common.recorded_run import load_run
from tools.lineage import __main__ as lineage
from tools.serve.proof import examine

pytestmark = pytest.mark.slow  # DVC records the runs


def make_relative(folder: Path, rev: str, *names: str, **values: Any) -> None:
    """Set gates relative to a revision, run report, and let DVC record it. `values` change those of verdicts."""
    from ruamel.yaml import YAML

    yaml = YAML()
    path = folder / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    for name in names:
        params["gates"][name] = {"not_worse_than": rev, "reason": "it is served"}
    yaml.dump(params, path)
    succeed_in(folder, report.main)
    verdicts = json.loads((folder / "metrics/gates.json").read_text(encoding="utf-8"))
    for name, value in values.items():
        verdicts[name]["value"] = value
    for name, verdict in verdicts.items():
        if name not in names:  # of so small a run
            verdict.pop("problem", None)
            verdict["passed"] = True
    (folder / "metrics/gates.json").write_text(json.dumps(verdicts), encoding="utf-8")
    run(folder, "dvc", "commit", "--force", "--quiet", "report")


def test_a_gate_passes_within_the_interval_of_the_other_run(proven: Path) -> None:
    make_relative(proven, "HEAD", "merge_top1_agreement", "awq_size_ratio")
    found = read_verdicts()
    for name, why in (
        ("merge_top1_agreement", "lower end of the 95 % Wilson interval: "),
        ("awq_size_ratio", "a tenth above "),
    ):
        verdict = found[name]
        head = repository.recorded("HEAD")
        assert verdict["passed"], verdict
        assert verdict["not_worse_than"] == "HEAD"
        assert verdict["reason"].startswith(f"not worse than HEAD ({head[:8]}): {why}")
        assert verdict["reason"].endswith("; it is served")
        assert abs(verdict["margin"]) == pytest.approx(abs(verdict["value"] - verdict["limit"]))
    assert "passed, against HEAD" in succeed_in(proven, gate.main)


def test_a_worse_value_fails_everywhere_a_verdict_is_read(proven: Path) -> None:
    before = repository.recorded("HEAD")
    make_relative(proven, before, "awq_size_ratio", awq_size_ratio=0.99)
    verdict = read_verdicts()["awq_size_ratio"]
    assert (verdict["passed"], verdict["bound"]) == (False, "max")
    assert verdict["margin"] < 0
    assert examine("awq", None).problems == ["gates failed: awq_size_ratio; `make gate` shows the values"]
    commit(proven, "larger")
    assert load_run(repository.recorded("HEAD"))["gates"]["awq_size_ratio"]["limit"] is None
    assert load_judged(repository.recorded("HEAD"))["gates"]["awq_size_ratio"] == verdict
    assert examine("awq", "HEAD").problems[0].startswith("gates failed: awq_size_ratio; ")
    assert "; failed: awq_size_ratio\n" in succeed_in(proven, lineage.main)
    assert f"not worse than {before}" in succeed_in(proven, card.main)


@pytest.mark.parametrize("rev", ["nowhere", "-x", "HEAD~99", "HEAD..HEAD"])
def test_a_revision_without_a_run_cannot_be_compared_with(proven: Path, rev: str) -> None:
    make_relative(proven, rev, "awq_size_ratio")
    verdict = read_verdicts()["awq_size_ratio"]
    assert not verdict["passed"]
    assert verdict["problem"] == (f"{rev}: no commit here has this name; name another revision, or set min or max")
    assert examine("awq", None).problems == ["gates failed: awq_size_ratio; `make gate` shows the values"]


def test_a_run_without_the_figure_cannot_be_compared_with(proven: Path) -> None:
    merge = proven / "metrics/merge.json"
    figures = json.loads(merge.read_text(encoding="utf-8"))
    merge.write_text(json.dumps({key: value for key, value in figures.items() if key != "tokens"}), encoding="utf-8")
    run(proven, "dvc", "commit", "--force", "--quiet")
    old = commit(proven, "an old run")
    merge.write_text(json.dumps(figures), encoding="utf-8")
    run(proven, "dvc", "commit", "--force", "--quiet")
    make_relative(proven, old, "merge_top1_agreement")
    assert read_verdicts()["merge_top1_agreement"]["problem"] == (
        f"{old}: metrics: no `tokens`; name another revision, or set min or max"
    )


@pytest.mark.parametrize(
    ("gate_name", "key", "value"),
    [
        ("merged_perplexity_ratio", "eval.rows", 9),
        ("merge_kept", "merge.rows", 7),
        ("awq_perplexity_ratio", "data/prepared/val.arrow", "0" * 32),
        ("awq_kept", "models/base", "0" * 32),
    ],
)
def test_figures_of_other_rows_or_another_base_are_not_compared(
    proven: Path, gate_name: str, key: str, value: Any
) -> None:
    """The lock of the workspace is changed, as it is after a run on other rows."""
    from ruamel.yaml import YAML

    assert key in SHARED[gate_name]
    make_relative(proven, "HEAD", gate_name, "awq_size_ratio")
    yaml = YAML()
    lock = yaml.load(Path("dvc.lock").read_text(encoding="utf-8"))
    for stage in lock["stages"].values():
        for dep in stage.get("deps", []):
            if dep["path"] == key:
                dep["md5"] = value
        for params in stage.get("params", {}).values():
            if key in params:
                params[key] = value
    yaml.dump(lock, Path("dvc.lock"))
    found = read_verdicts()
    assert found[gate_name]["problem"] == (
        f"HEAD: another {key} than here, so it measures something else; name another revision, or set min or max"
    )
    assert found["awq_size_ratio"].get("problem", "") == (found[gate_name]["problem"] if key == "models/base" else "")


def test_a_value_that_proves_nothing_is_no_better_for_being_relative(proven: Path) -> None:
    make_relative(proven, "HEAD", "merged_exact_match_gain")  # the small run answers nothing right
    verdict = read_verdicts()["merged_exact_match_gain"]
    assert not verdict["passed"]
    assert verdict["problem"].startswith("0 - 0: ")


def test_every_gate_says_what_two_runs_must_share() -> None:
    from stages.report.gates import GATES

    assert list(SHARED) == list(GATES)


def test_damaged_verdicts_are_a_problem_of_the_model_and_no_traceback(proven: Path) -> None:
    gates = Path("metrics/gates.json")
    gates.chmod(0o644)
    gates.write_text("<<<<<<< HEAD\n{}\n", encoding="utf-8")
    problems = examine("awq", None).problems
    assert problems[-1].startswith("metrics/gates.json:1: git's conflict markers")
    assert fail_in(proven, gate.main).startswith("metrics/gates.json:1: git's conflict markers")
    with pytest.raises(click.ClickException):
        read_verdicts()
