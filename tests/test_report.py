"""Report: a verdict per gate from the metrics, hashes of what is really there, and a card that holds both."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import report as stage
from tools import gate

# Metrics of a run that passes every gate of params.yaml, each value exactly on its limit or simple to divide.
METRICS: dict[str, dict[str, Any]] = {
    "preprocess": {
        "rows_read": 1000, "rows_kept": 975, "rows_train": 900, "rows_val": 75, "rows_calibration": 64,
        "rows_dropped": {"duplicate": 5, "over_length": 15, "empty_answer": 5},
        "rows_without_supervised_stop": 0, "rows_without_supervised_tokens": 0, "files": {"rows.jsonl": {}},
    },
    "train": {"eval_loss": 0.5, "steps": 10},
    "merge": {"kl_mean": 0.001, "top1_agreement": 0.99},
    "awq": {"quantized_modules": 14, "expected_modules": 14, "size_bytes": 60, "size_ratio": 0.6},
    "eval/base": {"exact_match": 0.25, "perplexity": 8.0, "stop_rate": 0.0},
    "eval/merged": {"exact_match": 0.75, "perplexity": 4.0, "stop_rate": 0.98},
    "eval/awq": {"exact_match": 0.7, "perplexity": 4.2, "stop_rate": 0.97},
}  # fmt: skip
ON_THE_LIMIT = {
    "rows_dropped_share": 0.02,
    "rows_without_supervised_stop": 0,
    "merge_kl_mean": 0.001,
    "merge_top1_agreement": 0.99,
    "merged_exact_match_gain": 0.5,
    "merged_perplexity_ratio": 0.5,
    "merged_stop_rate": 0.98,
    "awq_exact_match_drop": 0.05,
    "awq_perplexity_ratio": 1.05,
    "awq_size_ratio": 0.6,
}
LIMITS = {
    f"gates.{name}": {"min" if name.endswith(("gain", "rate", "agreement")) else "max": limit}
    for name, limit in ON_THE_LIMIT.items()
}


@pytest.fixture
def run(params: Callable[..., Path], workspace: Path, awq: Path) -> Path:
    """A finished run: the session's data and models, with the metrics above."""
    folder = link(params(LIMITS).parent, workspace)
    write_metrics(folder, {})
    return folder


def link(folder: Path, workspace: Path) -> Path:
    """Let a folder hold the session's data and models."""
    for name in ("data", "requirements", *(f"models/{name}" for name in stage.FOLDERS)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(workspace / name)
    return folder


def write_metrics(folder: Path, changes: dict[str, Any]) -> None:
    """Write METRICS with changes such as `{"merge.kl_mean": 1}`."""
    metrics = json.loads(json.dumps(METRICS))
    for dotted, value in changes.items():
        name, key = dotted.split(".")
        metrics[name][key] = value
    (folder / "metrics" / "eval").mkdir(parents=True, exist_ok=True)
    for name, values in metrics.items():
        (folder / "metrics" / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_a_value_on_its_limit_passes(run: Path, succeed: Callable[..., str]) -> None:
    assert succeed(stage.main) == "10 of 10 gates passed\n"
    verdicts = read(run, "gates")
    assert {name: verdict["value"] for name, verdict in verdicts.items()} == ON_THE_LIMIT
    for name, verdict in verdicts.items():
        (bound,) = LIMITS[f"gates.{name}"]
        assert verdict == {"value": ON_THE_LIMIT[name], "limit": ON_THE_LIMIT[name], "bound": bound, "passed": True}


@pytest.mark.parametrize(
    ("change", "gate", "value"),
    [
        ({"preprocess.rows_dropped": {"empty_answer": 21}}, "rows_dropped_share", 0.021),
        ({"preprocess.rows_without_supervised_stop": 1}, "rows_without_supervised_stop", 1),
        ({"merge.kl_mean": 0.00101}, "merge_kl_mean", 0.00101),
        ({"merge.top1_agreement": 0.989}, "merge_top1_agreement", 0.989),
        ({"eval/base.exact_match": 0.26}, "merged_exact_match_gain", 0.49),
        ({"eval/base.perplexity": 7.9}, "merged_perplexity_ratio", 0.506329),
        ({"eval/merged.stop_rate": 0.97}, "merged_stop_rate", 0.97),
        ({"eval/awq.exact_match": 0.69}, "awq_exact_match_drop", 0.06),
        ({"eval/awq.perplexity": 4.24}, "awq_perplexity_ratio", 1.06),
        ({"awq.size_ratio": 0.61}, "awq_size_ratio", 0.61),
    ],
)
def test_a_failed_gate_is_named_and_the_exit_code_stays_0(
    run: Path, succeed: Callable[..., str], change: dict[str, Any], gate: str, value: float
) -> None:
    write_metrics(run, change)
    assert succeed(stage.main).splitlines()[:2] == [
        "9 of 10 gates passed",
        f"  failed: {gate}; `make gate` shows the figures",
    ]
    verdicts = read(run, "gates")
    assert [name for name, verdict in verdicts.items() if not verdict["passed"]] == [gate]
    assert verdicts[gate]["value"] == value


def test_duplicates_are_no_lost_rows(run: Path, succeed: Callable[..., str]) -> None:
    write_metrics(run, {"preprocess.rows_dropped": {"duplicate": 900}})
    succeed(stage.main)
    assert read(run, "gates")["rows_dropped_share"]["value"] == 0


def test_without_questions_the_scores_of_answers_are_null_and_pass(run: Path, succeed: Callable[..., str]) -> None:
    models, scores = ("base", "merged", "awq"), ("exact_match", "stop_rate")
    write_metrics(run, {f"eval/{model}.{score}": None for model in models for score in scores})
    assert succeed(stage.main) == "10 of 10 gates passed\n"
    verdicts = read(run, "gates")
    null = {name for name, verdict in verdicts.items() if verdict["value"] is None}
    assert null == {"merged_exact_match_gain", "merged_stop_rate", "awq_exact_match_drop"}
    assert "None" not in (run / "models" / "card.md").read_text(encoding="utf-8")
    printed = succeed(gate.main)
    assert "merged_stop_rate              no question   min 0.98" in printed


def test_the_lineage_is_what_sha256sum_says(run: Path, succeed: Callable[..., str], workspace: Path) -> None:
    succeed(stage.main)
    lineage = read(run, "lineage")

    def sha256sum(folder: Path) -> dict[str, str]:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        done = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True)
        return {line[66:]: line[:64] for line in done.stdout.splitlines()}

    assert lineage["data"] == sha256sum(workspace / "data" / "raw")
    assert lineage["environment"] == sha256sum(workspace / "requirements")
    for name in ("base", "adapter", "merged", "awq"):
        lines = "".join(f"{value}  {file}\n" for file, value in sha256sum(workspace / "models" / name).items())
        assert lineage["models"][name] == hashlib.sha256(lines.encode()).hexdigest()
    manifest = json.loads((workspace / "models" / "base" / "manifest.json").read_text(encoding="utf-8"))
    assert lineage["base"] == {"id": "lockstep/tiny", "revision": manifest["revision"]}
    assert (lineage["rows"]["read"], lineage["rows"]["train"], lineage["rows"]["val"]) == (1000, 900, 75)
    assert "commit" not in lineage


def test_the_card_holds_every_figure(run: Path, succeed: Callable[..., str]) -> None:
    write_metrics(run, {"merge.kl_mean": 0.5})
    succeed(stage.main)
    card = (run / "models" / "card.md").read_text(encoding="utf-8")
    lineage, verdicts = read(run, "lineage"), read(run, "gates")
    for name, scores in METRICS.items():
        if name.startswith("eval/"):
            row = " | ".join(str(scores[key]) for key in ("exact_match", "perplexity", "stop_rate"))
            assert f"| {name.removeprefix('eval/')} | {row} |\n" in card
    for name, verdict in verdicts.items():
        word = "passed" if verdict["passed"] else "**failed**"
        assert f"| {name} | {verdict['value']} | {verdict['bound']} {verdict['limit']} | {word} |\n" in card
    assert card.count("**failed**") == 1
    for value in (lineage["base"]["id"], lineage["base"]["revision"], *lineage["data"].values()):
        assert f"`{value}`" in card
    assert "1000 rows read, 975 kept: 900 to train on, 75 to score on." in card


def test_reporting_again_gives_the_same_bytes(run: Path, succeed: Callable[..., str]) -> None:
    outputs = ("metrics/gates.json", "metrics/lineage.json", "models/card.md")
    contents = []
    for _ in range(2):
        succeed(stage.main)
        contents.append([(run / name).read_bytes() for name in outputs])
    assert contents[0] == contents[1]


def test_a_real_run_is_reported(
    workspace: Path, scored: Path, params: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = link(params().parent, workspace)
    shutil.copytree(scored, folder / "metrics")
    succeed(stage.main)
    verdicts = read(folder, "gates")
    assert len(verdicts) == 10
    assert verdicts["merge_kl_mean"]["passed"]
    assert verdicts["awq_perplexity_ratio"]["passed"]
    assert not verdicts["merged_exact_match_gain"]["passed"]


@pytest.mark.parametrize("name", METRICS)
def test_a_missing_metric_is_named(run: Path, fail: Callable[..., str], name: str) -> None:
    (run / "metrics" / f"{name}.json").unlink()
    assert fail(stage.main) == f"metrics/{name}.json: no such file or folder; run `dvc repro` first"
    assert not (run / "metrics" / "gates.json").exists()


def test_a_metric_without_a_value_is_named(run: Path, fail: Callable[..., str]) -> None:
    metrics = {key: value for key, value in METRICS["merge"].items() if key != "kl_mean"}
    (run / "metrics" / "merge.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert fail(stage.main) == "metrics: no `kl_mean` where the report stage looks for it; run `dvc repro` first"
    assert not (run / "metrics" / "gates.json").exists()


@pytest.mark.parametrize("name", ["models/adapter", "models/awq", "requirements"])
def test_a_missing_artefact_is_named(run: Path, fail: Callable[..., str], name: str) -> None:
    (run / name).unlink()
    name = name.replace("requirements", "requirements/pipeline.txt")
    assert fail(stage.main) == f"{name}: no such file or folder; run `dvc repro` first"
    assert not (run / "metrics" / "gates.json").exists()
