"""`make gates`: limits from the figures of a run, each with its reason, and what it writes into params.yaml."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from recorded import METRICS
from ruamel.yaml import YAML
from scipy import stats  # type: ignore[import-untyped]
from stage_runs import ROOT

from stages.common.params import load_params, read_yaml
from stages.report.gates import GATES
from stages.report.params import GatesParams
from stages.report.verdicts import judge
from tools import propose
from tools.common.fitted_limits import RULES, fit_limit, outward

PARAMS = Path("params.yaml")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write a run into a new folder: METRICS with changes such as `{"merge": {"kept": 1}}`, and its dvc.lock."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", PARAMS)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    def write(changes: dict[str, Any] | None = None) -> None:
        outs = []
        for name, figures in METRICS.items():
            path = Path("metrics", f"{name}.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures | (changes or {}).get(name, {})), encoding="utf-8")
            outs.append({"path": str(path), "md5": hashlib.md5(path.read_bytes()).hexdigest()})
        confidence = {"params.yaml": {"compare.confidence": 0.95}}
        lock = {"stages": {"compare": {"cmd": "compare", "outs": outs, "params": confidence}}}
        YAML().dump(lock, Path("dvc.lock"))

    return write


def gates(*arguments: str) -> Result:
    return CliRunner().invoke(propose.main, arguments)


def proposed(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return YAML(typ="safe").load(done.stdout)["gates"]


def comment(done: Result, name: str) -> str:
    """The comment above a gate."""
    lines = done.stdout.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith(f"  {name}: ")]
    return lines[place - 1].removeprefix("  # ")


def test_the_block_is_yaml_with_a_limit_and_a_comment_for_each_gate(finished: Callable[..., None]) -> None:
    finished()
    before = PARAMS.read_bytes()
    done = gates()
    assert list(proposed(done)) == list(GATES) == list(RULES)
    GatesParams(**proposed(done))
    for name in GATES:
        assert re.match(r"(min|max) \S+ -> (min|max) \S+; this run: \S+", comment(done, name))
    assert PARAMS.read_bytes() == before
    assert done.stdout.endswith("# `make gates APPLY=1` writes this into params.yaml\n")


def test_a_limit_is_the_worse_end_of_the_interval_in_the_metrics(finished: Callable[..., None]) -> None:
    finished({"compare": {"awq_merged": METRICS["compare"]["awq_merged"] | {
        "exact_match": {"difference": -0.05, "low": -0.1004, "high": 0.01},
        "perplexity": {"difference": 0.2, "low": 0.1, "high": 0.3},
    }}})  # fmt: skip
    done = gates()
    found = proposed(done)
    assert found["merged_exact_match_gain"] == {
        "min": 0.25, "reason": "lower end of the 95 % interval, 0.25 to 0.625 on 75 rows",
    }  # fmt: skip
    assert found["awq_exact_match_drop"] == {
        "max": 0.101, "reason": "upper end of the 95 % interval, -0.01 to 0.1004 on 75 rows",
    }  # fmt: skip
    assert found["awq_perplexity_ratio"]["max"] == 1.075  # 1 + 0.3 / 4
    assert found["merged_perplexity_ratio"]["max"] == 0.75  # 1 - 2 / 8
    assert comment(done, "merged_exact_match_gain").startswith("min 0.5 -> min 0.25; this run: 0.5; lower end ")


def test_a_share_of_counted_things_has_wilsons_interval(finished: Callable[..., None]) -> None:
    finished({"eval/awq": {"stop_rate": 0.96, "rows_answered": 75}, "merge": {"top1_agreement": 0.995}})
    found = proposed(gates())
    for name, count, of in (("awq_stop_rate", 72, 75), ("merge_top1_agreement", 199, 200)):
        low = stats.binomtest(count, of).proportion_ci(0.95, method="wilson").low
        assert low - 0.001 <= found[name]["min"] <= low
    assert found["awq_stop_rate"]["reason"] == "lower end of the 95 % Wilson interval: 72 of 75 answers"


@pytest.mark.parametrize(
    ("change", "base", "limit"),
    [(0.0, 1.0, 0.049), (1.0, 0.0, -0.951), (-1.0, 1.0, 1.0)],
    ids=["no row differs", "every row is won", "every row is lost"],
)
def test_where_all_rows_are_alike_the_interval_is_that_of_a_share(
    finished: Callable[..., None], change: float, base: float, limit: float
) -> None:
    """The bootstrap cannot see what no row shows. Wilson: 0 of 75 is at most 4.9 %, 75 of 75 at least 95.1 %."""
    merged = METRICS["compare"]["merged_base"] | {"stop_rate": {"difference": change, "low": change, "high": change}}
    scores = {"eval/base": {"stop_rate": base}, "eval/merged": {"stop_rate": base + change}}
    finished({"compare": {"merged_base": merged}} | scores)
    assert proposed(gates())["merged_stop_rate_drop"]["max"] == limit


def test_without_an_interval_a_tenth_is_left(finished: Callable[..., None]) -> None:
    finished({"train": {"eval_loss": 1.23}, "awq": {"kept": 0.9}})
    found = proposed(gates())
    assert found["train_eval_loss"] == {
        "max": 1.353, "reason": "a tenth above 1.23, as the metrics hold no interval",
    }  # fmt: skip
    assert found["awq_kept"]["min"] == 0.89
    assert found["merged_tasks_drop"]["max"] == 0.45  # 0.375, and a tenth of 0.75


@pytest.mark.parametrize(("limit", "lower", "rounded"), [
    (0.29, True, 0.29), (0.29, False, 0.29), (0.2901, True, 0.29), (0.2901, False, 0.291), (-0.0004, True, -0.001),
    (-0.0004, False, 0.0),
])  # fmt: skip
def test_a_limit_is_rounded_away_from_the_figure(limit: float, lower: bool, rounded: float) -> None:
    assert outward(limit, lower) == rounded
    assert str(outward(limit, lower)) != "-0.0"


@pytest.mark.parametrize("name", GATES)
def test_a_run_passes_the_limit_that_fits_it(name: str, finished: Callable[..., None]) -> None:
    changes = {
        "eval/base": {"perplexity": 8.0},
        "compare": {
            "awq_base": METRICS["compare"]["awq_base"] | {
                "exact_match": {"difference": 0.45, "low": 0.3, "high": 0.6},
            },
            "awq_merged": METRICS["compare"]["awq_merged"] | {
                "exact_match": {"difference": -0.05, "low": -0.1, "high": 0.0},
                "perplexity": {"difference": 0.2, "low": 0.1, "high": 0.3},
            },
        },
    }  # fmt: skip
    finished(changes)
    metrics = {key: figures | changes.get(key, {}) for key, figures in METRICS.items()}
    limits = GatesParams(**proposed(gates()))
    assert judge(metrics, limits)[name]["passed"]


def test_apply_writes_the_limits_and_keeps_every_other_byte(finished: Callable[..., None]) -> None:
    finished()
    before = PARAMS.read_text(encoding="utf-8").splitlines()
    done = gates("--apply")
    assert "next: `git diff params.yaml`, then `make repro`" in done.stdout
    after = PARAMS.read_text(encoding="utf-8").splitlines()
    assert len(after) == len(before)
    changed = [line.split(":")[0].strip() for line, old in zip(after, before, strict=True) if line != old]
    assert "merged_exact_match_gain" in changed
    assert set(changed) <= set(GATES)
    assert read_yaml(PARAMS)["gates"] == proposed(done)
    assert gates("--apply").stdout.endswith("# params.yaml: already holds these limits\n")
    assert PARAMS.read_text(encoding="utf-8").splitlines() == after


def test_comments_and_layout_of_a_gate_stay(finished: Callable[..., None]) -> None:
    finished({"train": {"eval_loss": 1.0}})
    text = PARAMS.read_text(encoding="utf-8")
    text = re.sub(
        r"  train_eval_loss: .*", "  # ours\n  train_eval_loss: {max: 0.7, reason: 'old'}  # agreed in May", text
    )
    text = re.sub(r"  awq_kept: .*", "  awq_kept:\n    min: 0.5  # a start\n    reason: old", text)
    PARAMS.write_text(text, encoding="utf-8")
    assert gates("--apply").exit_code == 0
    after = PARAMS.read_text(encoding="utf-8")
    assert '  # ours\n  train_eval_loss: {max: 1.1, reason: "a tenth above 1, as ' in after
    assert 'as the metrics hold no interval"} # agreed in May\n' in after
    assert re.search(
        r'  awq_kept:\n    min: 0.89 +# a start\n    reason: "a tenth further from 1 than 0.9, as ', after
    )


def test_a_limit_on_the_other_side_is_replaced(finished: Callable[..., None]) -> None:
    finished()
    text = PARAMS.read_text(encoding="utf-8")
    PARAMS.write_text(re.sub(r"  awq_kept: .*", "  awq_kept: {max: 1, reason: odd}", text), encoding="utf-8")
    assert proposed(gates("--apply"))["awq_kept"].keys() == {"min", "reason"}
    assert load_params(PARAMS, "gates", GatesParams).awq_kept.min == 0.89  # type: ignore[attr-defined]


def test_what_cannot_be_judged_is_left_out_or_stays(finished: Callable[..., None]) -> None:
    """Nothing to measure: the gate is left out. 0 - 0 may be the fault of the run: its limit stays."""
    none = {"tasks_mean": None}
    finished({"eval/base": none | {"exact_match": 0.0}, "eval/merged": none | {"exact_match": 0.0}})
    text = PARAMS.read_text(encoding="utf-8")
    PARAMS.write_text(re.sub(r"(  merged_tasks_drop: .*)", r"\1  # ours", text), encoding="utf-8")
    done = gates("--apply")
    found = proposed(done)
    assert found["merged_tasks_drop"] is None
    (line,) = [line for line in PARAMS.read_text(encoding="utf-8").splitlines() if "merged_tasks_drop" in line]
    assert line.startswith("  merged_tasks_drop: null  # cannot be judged: `eval.tasks` is empty")
    assert line.endswith("; ours")
    assert found["merged_exact_match_gain"]["min"] == 0.5
    assert "cannot be judged, so its limit stays: 0 - 0" in comment(done, "merged_exact_match_gain")


def test_a_limit_that_a_useless_model_would_pass_is_not_proposed(finished: Callable[..., None]) -> None:
    no_gain = {"difference": 0.02, "low": -0.03, "high": 0.07}
    finished({
        "compare": {"merged_base": METRICS["compare"]["merged_base"] | {"exact_match": no_gain}},
        "eval/merged": {"exact_match": 0.27}, "awq": {"size_ratio": 0.97},
    })  # fmt: skip
    done = gates()
    assert proposed(done)["merged_exact_match_gain"]["min"] == 0.5
    assert "this run: 0.02, which fails; its limit stays, as a useless model would pass min -0.03" in comment(
        done, "merged_exact_match_gain"
    )
    assert proposed(done)["awq_size_ratio"]["max"] == 0.6


def test_a_gate_of_null_or_relative_to_a_revision_stays(finished: Callable[..., None]) -> None:
    finished()
    text = PARAMS.read_text(encoding="utf-8")
    text = re.sub(r"  merge_kl_mean: .*", "  merge_kl_mean: null  # ours", text)
    text = re.sub(r"  awq_kept: .*", '  awq_kept: {not_worse_than: v1.0, reason: "served"}', text)
    PARAMS.write_text(text, encoding="utf-8")
    done = gates("--apply")
    assert comment(done, "merge_kl_mean").startswith("null -> null; this run: 0.001; left out")
    assert comment(done, "awq_kept").startswith("not_worse_than v1.0 -> not_worse_than v1.0; ")
    after = PARAMS.read_text(encoding="utf-8")
    assert "  merge_kl_mean: null  # ours\n" in after
    assert '  awq_kept: {not_worse_than: v1.0, reason: "served"}\n' in after


def test_one_val_row_has_no_interval(finished: Callable[..., None]) -> None:
    alone = {"difference": 0.5, "low": None, "high": None}
    finished({"compare": {"merged_base": METRICS["compare"]["merged_base"] | {"chrf": alone}}})
    assert "its limit stays: metrics/compare.json: no interval of merged_base.chrf" in comment(
        gates(), "merged_chrf_gain"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Path("dvc.lock").unlink(), "dvc.lock: no such file or folder; run `make repro` first"),
        (
            lambda: Path("metrics/compare.json").unlink(),
            "metrics/compare.json: no such file or folder; run `make repro`",
        ),
        (
            lambda: Path("metrics/train.json").write_text("{}"),
            "metrics/train.json: not the file of the run in dvc.lock",
        ),
        (lambda: Path("metrics/train.json").write_text("{"), "metrics/train.json: not JSON: "),
        (lambda: PARAMS.write_text("gates: {}\n"), "params.yaml: gates.rows_dropped_share: missing key"),
    ],
    ids=["no lock", "no metrics", "another run", "cut off", "no gates"],
)
def test_without_a_whole_run_it_says_what_to_do(
    spoil: Callable[[], object], message: str, finished: Callable[..., None]
) -> None:
    finished()
    spoil()
    done = gates("--apply")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {message}")


def test_figures_that_an_old_run_lacks_are_named() -> None:
    stages = {"compare": {"params": {"compare.confidence": 0.95}}}
    metrics = METRICS | {"merge": {"top1_agreement": 0.99}}
    with pytest.raises(Exception, match="metrics: no `tokens`"):
        fit_limit("merge_top1_agreement", {"stages": stages, "metrics": metrics})
