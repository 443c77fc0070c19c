"""Recorded runs: metrics that pass every gate, and a git repository whose commits record runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from stage_runs import ROOT, succeed_in

from stages.compare import __main__ as compare
from stages.report import __main__ as report

DIFFERENCE = {"difference": 0.5, "low": 0.25, "high": 0.625}
SAME = {"difference": 0.0, "low": 0.0, "high": 0.0}
PERPLEXITY = {"difference": -4.0, "low": -5.0, "high": -2.0}
COMPARED = {"exact_match": DIFFERENCE, "chrf": DIFFERENCE, "stop_rate": SAME, "perplexity": PERPLEXITY}
# Each value is exactly on its limit in LIMITS, or easy to divide.
METRICS: dict[str, dict[str, Any]] = {
    "preprocess": {
        "rows_read": 1000, "rows_kept": 975, "rows_train": 900, "rows_val": 75, "rows_calibration": 64,
        "rows_dropped": {"duplicate": 5, "over_length": 15, "empty_answer": 5}, "findings": {"email": 2},
        "rows_without_supervised_stop": 0, "rows_without_supervised_tokens": 0,
        "examples": {"email": ["rows.jsonl:1"]},
        "files": {"rows.jsonl": {"format": "alpaca", "rows_read": 1000, "rows_train": 900, "rows_val": 75}},
    },
    "train": {"eval_loss": 0.7, "steps": 10, "rows_train": 900, "rows_val": 75},
    "merge": {
        "kl_mean": 0.001, "kl_base_mean": 0.05, "kept": 0.98, "misplaced_weights": 0, "top1_agreement": 0.99,
        "tokens": 200,
    },
    "awq": {"quantized_modules": 14, "expected_modules": 14, "size_bytes": 60, "size_ratio": 0.6, "kept": 0.9},
    "eval/base": {
        "rows": 75, "exact_match": 0.25, "perplexity": 8.0, "stop_rate": 1.0, "general_perplexity": 16.0,
        "chrf": 0.25, "fitting_rate": 1.0, "rows_answered": 75,
        "tasks": {"sums": {"exact_match": 0.75}}, "tasks_mean": 0.75,
    },
    "eval/merged": {
        "rows": 75, "exact_match": 0.75, "perplexity": 4.0, "stop_rate": 0.98, "general_perplexity": 20.0,
        "chrf": 0.5, "fitting_rate": 1.0, "rows_answered": 75,
        "tasks": {"sums": {"exact_match": 0.375}}, "tasks_mean": 0.375,
    },
    "eval/awq": {
        "rows": 75, "exact_match": 0.7, "perplexity": 4.2, "stop_rate": 0.98, "general_perplexity": 24.0,
        "chrf": 0.5, "fitting_rate": 1.0, "rows_answered": 75,
        "tasks": {"sums": {"exact_match": 0.3125}}, "tasks_mean": 0.3125,
    },
    "compare": {
        "awq_base": {"rows": 75, "won": 37, "lost": 3, "mcnemar_p": 1.9e-8} | COMPARED,
        "awq_merged": {"rows": 75, "won": 1, "lost": 5, "mcnemar_p": 0.21875} | COMPARED,
        "merged_base": {"rows": 75, "won": 40, "lost": 3, "mcnemar_p": 1.5e-9} | COMPARED,
    },
}  # fmt: skip
ON_THE_LIMIT = {
    "rows_dropped_share": 0.02,
    "rows_without_supervised_tokens": 0,
    "rows_without_supervised_stop": 0,
    "train_eval_loss": 0.7,
    "merge_misplaced_weights": 0,
    "merge_kept": 0.98,
    "merge_kl_mean": 0.001,
    "merge_top1_agreement": 0.99,
    "merged_exact_match_gain": 0.5,
    "merged_chrf_gain": 0.25,
    "merged_perplexity_ratio": 0.5,
    "merged_stop_rate": 0.98,
    "merged_stop_rate_drop": 0.02,
    "merged_general_perplexity_ratio": 1.25,
    "merged_tasks_drop": 0.375,
    "awq_exact_match_drop": 0.05,
    "awq_exact_match_gain": 0.45,
    "awq_kept": 0.9,
    "awq_base_perplexity_ratio": 0.525,
    "awq_perplexity_ratio": 1.05,
    "awq_size_ratio": 0.6,
    "awq_stop_rate": 0.98,
}
BOUNDS = {name: "min" if name.endswith(("gain", "rate", "agreement", "kept")) else "max" for name in ON_THE_LIMIT}
LIMITS = {f"gates.{name}": {BOUNDS[name]: limit, "reason": "a test"} for name, limit in ON_THE_LIMIT.items()}
# Commits need a name, and a machine that runs this may have none set.
WHO = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"} | WHO


def write_metrics(folder: Path, changes: dict[str, Any]) -> None:
    """Write METRICS with changes such as `{"merge.kl_mean": 1}`."""
    metrics = json.loads(json.dumps(METRICS))
    for dotted, value in changes.items():
        name, key = dotted.split(".")
        metrics[name][key] = value
    (folder / "metrics" / "eval").mkdir(parents=True, exist_ok=True)
    for name, values in metrics.items():
        (folder / "metrics" / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


class Recorded(NamedTuple):
    """A repository and its commits.

    Attributes:
        folder: the repository.
        first: commit of a run.
        words: the same run, with another README.md.
        other: a run with another AWQ model.
    """

    folder: Path
    first: str
    words: str
    other: str


def build(folder: Path, workspace: Path, scored: Path) -> Recorded:
    """Make a git repository with the session's small run, its rows imported, as the pipeline leaves it."""
    for name in ("data/prepared", "models"):
        shutil.copytree(workspace / name, folder / name)
    shutil.copytree(scored, folder / "metrics")
    for name in METRICS:  # adds what this small run does not measure
        path = folder / "metrics" / f"{name}.json"
        measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        missing = {key: value for key, value in METRICS[name].items() if measured.get(key) is None}
        path.write_text(json.dumps(measured | missing), encoding="utf-8")
    given = [Path("data", name) for name in ("benchmarks", "general", "start", "tasks", "templates")]
    for path in (*given, Path("dvc.yaml"), Path("stages"), Path(".dvcignore"), Path(".gitignore")):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, folder / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, folder / path)
    for name in ("params.yaml", "requirements/pipeline.txt", "data/raw/rows.jsonl"):
        target = folder / Path(name).name if name.endswith("jsonl") else folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(workspace / name, target)
    (folder / "data" / "raw").mkdir()
    imported = [sys.executable, "-m", "tools.import", "rows.jsonl", "--licence", "mit"]
    for command in (["git", "init", "-q", "-b", "main"], ["dvc", "init", "-q"], imported):
        run(folder, *command)
    (folder / "rows.jsonl").unlink()
    stages = run(folder, "dvc", "stage", "list", "--name-only").split()
    succeed_in(folder, compare.main)
    first = record(folder, "run", *stages)
    (folder / "README.md").write_text("no run reads or writes this\n", encoding="utf-8")
    words = commit(folder, "words")
    config = folder / "models" / "awq" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    other = record(folder, "another model", "awq", "eval@awq")
    shutil.copytree(folder / "models", folder / ".git" / "models")
    return Recorded(folder, first, words, other)


def record(folder: Path, subject: str, *changed: str, report_too: bool = True) -> str:
    """Run the report stage, let DVC record the files as the outs of the changed stages, and commit.

    Returns:
        The hash of the commit.
    """
    if report_too:
        succeed_in(folder, report.main)
    run(folder, "dvc", "commit", "--force", "--quiet", *dict.fromkeys([*changed, "report"]))
    return commit(folder, subject)


def commit(folder: Path, subject: str) -> str:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", subject)
    return run(folder, "git", "rev-parse", "HEAD").strip()


def run(folder: Path, *command: str, given: str = "", variables: dict[str, str] | None = None) -> str:
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)} | (variables or {})
    done = subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_monorepo(repository: Recorded, folder: Path) -> Recorded:
    """Make a larger git repository in an empty folder: it has the same runs in sub/lockstep, and other files beside.

    Its last commit changes other files only, among them a dvc.lock and metrics of another project.
    """
    project = shutil.copytree(repository.folder, folder / "sub" / "lockstep", symlinks=True)
    (project / ".git").rename(folder / ".git")
    commits: list[str] = []
    for old in (repository.first, repository.words, repository.other):
        tree = run(folder, "git", "rev-parse", f"{old}^{{tree}}").strip()
        for name in ("lockstep", "sub"):
            tree = run(folder, "git", "mktree", given=f"040000 tree {tree}\t{name}\n").strip()
        date, subject = run(folder, "git", "show", "-s", "--format=%ct %s", old).strip().split(" ", 1)
        dates = {"GIT_AUTHOR_DATE": f"{date} +0000", "GIT_COMMITTER_DATE": f"{date} +0000"}
        parent = ("-p", commits[-1]) if commits else ()
        commits.append(run(folder, "git", "commit-tree", "-m", subject, *parent, tree, variables=dates).strip())
    for ref in run(folder, "git", "for-each-ref", "--format=%(refname)").split():
        run(folder, "git", "update-ref", "-d", ref)
    run(folder, "git", "update-ref", "refs/heads/main", commits[-1])
    run(folder, "git", "symbolic-ref", "HEAD", "refs/heads/main")
    run(folder, "git", "reset", "--quiet")
    (folder / "metrics").mkdir()
    for name in ("dvc.lock", "params.yaml", "metrics/gates.json"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    commit(folder, "another project")
    return Recorded(project, *commits)
