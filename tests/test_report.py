"""Report: a verdict per gate from the metrics, and the hashes of what is really there."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded import BOUNDS, LIMITS, METRICS, ON_THE_LIMIT, write_metrics

from stages import report as stage


@pytest.fixture
def run(params: Callable[..., Path], workspace: Path, awq: Path) -> Path:
    """A finished run: the session's data and models, with the metrics of tests/recorded.py."""
    folder = link(params(LIMITS).parent, workspace)
    write_metrics(folder, {})
    return folder


def link(folder: Path, workspace: Path) -> Path:
    """Let a folder hold the session's data and models."""
    for name in ("data", "requirements", *(f"models/{name}" for name in stage.FOLDERS)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(workspace / name)
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_a_value_on_its_limit_passes(run: Path, succeed: Callable[..., str]) -> None:
    assert succeed(stage.main) == "15 of 15 gates passed\n"
    assert read(run, "gates") == {
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


@pytest.mark.parametrize(
    ("change", "gate", "value", "margin"),
    [
        ({"preprocess.rows_dropped": {"empty_answer": 21}}, "rows_dropped_share", 0.021, -0.001),
        ({"preprocess.rows_without_supervised_tokens": 2}, "rows_without_supervised_tokens", 2, -2),
        ({"preprocess.rows_without_supervised_stop": 1}, "rows_without_supervised_stop", 1, -1),
        ({"train.eval_loss": 0.75}, "train_eval_loss", 0.75, -0.05),
        ({"merge.kl_mean": 0.00101}, "merge_kl_mean", 0.00101, -0.00001),
        ({"merge.top1_agreement": 0.989}, "merge_top1_agreement", 0.989, -0.001),
        ({"eval/base.exact_match": 0.26}, "merged_exact_match_gain", 0.49, -0.01),
        ({"eval/base.perplexity": 7.9}, "merged_perplexity_ratio", 0.506329, -0.006329),
        ({"eval/merged.stop_rate": 0.97}, "merged_stop_rate", 0.97, -0.01),
        ({"eval/base.general_perplexity": 15}, "merged_general_perplexity_ratio", 1.333333, -0.083333),
        ({"eval/merged.tasks_mean": 0.25}, "merged_tasks_drop", 0.5, -0.125),
        ({"eval/awq.exact_match": 0.69}, "awq_exact_match_drop", 0.06, -0.01),
        ({"eval/awq.perplexity": 4.24}, "awq_perplexity_ratio", 1.06, -0.01),
        ({"awq.size_ratio": 0.61}, "awq_size_ratio", 0.61, -0.01),
        ({"eval/awq.stop_rate": 0.9799}, "awq_stop_rate", 0.9799, -0.0001),
    ],
)
def test_a_failed_gate_is_named_and_the_exit_code_stays_0(
    run: Path, succeed: Callable[..., str], change: dict[str, Any], gate: str, value: float, margin: float
) -> None:
    write_metrics(run, change)
    assert succeed(stage.main).splitlines() == [
        "14 of 15 gates passed",
        f"  failed: {gate}; `make gate` says what to look at",
    ]
    verdicts = read(run, "gates")
    assert [name for name, verdict in verdicts.items() if not verdict["passed"]] == [gate]
    assert (verdicts[gate]["value"], verdicts[gate]["margin"]) == (value, margin)


def test_a_margin_is_above_0_on_the_side_that_passes(run: Path, succeed: Callable[..., str]) -> None:
    write_metrics(run, {"awq.size_ratio": 0.35, "eval/merged.stop_rate": 1.0})
    succeed(stage.main)
    verdicts = read(run, "gates")
    assert (verdicts["awq_size_ratio"]["margin"], verdicts["merged_stop_rate"]["margin"]) == (0.25, 0.02)


def test_duplicates_are_no_lost_rows(run: Path, succeed: Callable[..., str]) -> None:
    write_metrics(run, {"preprocess.rows_dropped": {"duplicate": 900}})
    succeed(stage.main)
    assert read(run, "gates")["rows_dropped_share"]["value"] == 0


def test_what_these_rows_cannot_tell_has_no_value_and_passes(run: Path, succeed: Callable[..., str]) -> None:
    scores = ("exact_match", "stop_rate", "general_perplexity", "tasks_mean")
    write_metrics(run, {f"eval/{model}.{score}": None for model in ("base", "merged", "awq") for score in scores})
    assert succeed(stage.main) == "15 of 15 gates passed\n"
    without = {name: verdict for name, verdict in read(run, "gates").items() if verdict["value"] is None}
    assert set(without) == {
        *("merged_exact_match_gain", "merged_stop_rate", "merged_general_perplexity_ratio"),
        *("merged_tasks_drop", "awq_exact_match_drop", "awq_stop_rate"),
    }
    assert {(verdict["margin"], verdict["passed"]) for verdict in without.values()} == {(None, True)}


def test_the_lineage_is_what_the_system_says(run: Path, succeed: Callable[..., str]) -> None:
    succeed(stage.main)
    lineage = read(run, "lineage")
    names = ["data/raw/rows.jsonl", "requirements/pipeline.txt"]
    for model in stage.FOLDERS:
        files = (run / "models" / model).rglob("*")
        names += sorted(file.relative_to(run).as_posix() for file in files if file.is_file())
    assert [entry["path"] for entry in lineage["files"]] == names
    for kind in ("md5", "sha256"):
        done = subprocess.run([f"{kind}sum", *names], cwd=run, capture_output=True, text=True, check=True)
        assert [f"{entry[kind]}  {entry['path']}" for entry in lineage["files"]] == done.stdout.splitlines()
    assert [entry["size_bytes"] for entry in lineage["files"]] == [(run / name).stat().st_size for name in names]
    manifest = json.loads((run / "models" / "base" / "manifest.json").read_text(encoding="utf-8"))
    revision = manifest["revision"]
    assert lineage["base"] == {"id": "lockstep/tiny", "revision": revision, "architecture": "Qwen2ForCausalLM"}
    assert (lineage["rows"]["read"], lineage["rows"]["train"], lineage["rows"]["val"]) == (1000, 900, 75)
    assert "commit" not in lineage


def test_reporting_again_gives_the_same_bytes(run: Path, succeed: Callable[..., str]) -> None:
    outputs = ("metrics/gates.json", "metrics/lineage.json")
    contents = []
    for _ in range(2):
        succeed(stage.main)
        contents.append([(run / name).read_bytes() for name in outputs])
    assert contents[0] == contents[1]


def test_a_real_run_is_reported(
    workspace: Path, scored: Path, params: Callable[..., Path], succeed: Callable[..., str]
) -> None:
    folder = link(params().parent, workspace)
    write_metrics(folder, {})  # what this small run does not measure
    shutil.copytree(scored, folder / "metrics", dirs_exist_ok=True)
    for name in ("base", "merged", "awq"):
        path = folder / "metrics" / "eval" / f"{name}.json"
        measured = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(METRICS[f"eval/{name}"] | measured), encoding="utf-8")
    succeed(stage.main)
    verdicts = read(folder, "gates")
    assert len(verdicts) == 15
    assert verdicts["merge_kl_mean"]["passed"]
    assert verdicts["awq_perplexity_ratio"]["passed"]
    assert not verdicts["merged_exact_match_gain"]["passed"]


@pytest.mark.parametrize("name", stage.METRICS)
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


def test_an_unwritable_output_is_named_and_the_other_not_written(run: Path, fail: Callable[..., str]) -> None:
    (run / "blocked").write_text("a file, no folder")
    message = "blocked/lineage.json: cannot be written (File exists); check the folder's owner and free space"
    assert fail(stage.main, "--lineage", "blocked/lineage.json") == message
    assert not (run / "metrics" / "gates.json").exists()
