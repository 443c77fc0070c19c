"""Run facts: what a review needs of a run, read from the workspace or from a commit."""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.scores import MODELS, AnswerRow
from stages.report.figures import METRICS
from tools.common import dvc_cache, repository
from tools.common.dvc_lock import parse_lock
from tools.common.judged_run import load_judged, read_verdicts

CURVES = ("loss", "eval_loss")
NAMES = (*METRICS, "compare", "gates")


@dataclass(frozen=True)
class RunFacts:
    """One side of a review.

    Attributes:
        stages: what each stage read and wrote, as dvc.lock has it; empty where there is no run.
        metrics: what the stages measured, by the name of the file.
        curves: steps and values of the training's curves.
        answers: for each model the rows of its answers; without the models whose file is not at hand.
    """

    stages: dict[str, Any]
    metrics: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]
    answers: dict[str, list[AnswerRow]]

    def params(self) -> dict[str, Any]:
        """Return the params that the stages ran with."""
        return {
            key: value
            for stage in self.stages.values()
            for key, value in stage.get("params", {}).get("params.yaml", {}).items()
        }

    def entries(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return all deps or outs (`kind`) of the run by their paths."""
        return {entry["path"]: entry for stage in self.stages.values() for entry in stage.get(kind, [])}


def read_workspace() -> RunFacts:
    """Read the run of the workspace.

    Raises:
        click.ClickException: there is none, or it ended before the report.
    """
    files.require(Path("dvc.lock"), "make repro")
    for name in NAMES:
        files.require(Path("metrics", f"{name}.json"), "make repro")
    found = _read(lambda path: Path(path).read_bytes() if Path(path).exists() else None)
    if "report" not in found.stages:
        raise click.ClickException("dvc.lock: the run is not complete; run `make repro` first")
    found.metrics["gates"] = read_verdicts()
    for model in MODELS:
        if (path := Path(_answers(model))).exists():
            found.answers[model] = files.read_rows(path)
    return found


def read_commit(commit: repository.Commit) -> RunFacts:
    """Read the run of a commit: without a dvc.lock, an empty one. Answers come from DVC's cache or its remote."""
    content = repository.read_files(commit)
    found = _read(content.get)
    if "gates" in found.metrics:
        found.metrics["gates"] = load_judged(commit)["gates"]
    for model in MODELS:
        md5 = found.entries("outs").get(_answers(model), {}).get("md5")
        if md5 and (place := dvc_cache.cached_file(md5)):
            found.answers[model] = files.read_rows(place)
        elif md5:
            with tempfile.TemporaryDirectory() as folder:
                if _fetch(_answers(model), commit, path := Path(folder, "answers.jsonl")):
                    found.answers[model] = files.read_rows(path)
    return found


def _read(content: Callable[[str], bytes | None]) -> RunFacts:
    """Read a run from the content of files by their paths, None where there is none.

    Raises:
        click.ClickException: a file is damaged.
    """
    lock = content("dvc.lock")
    metrics = {name: (path, content(path)) for name in NAMES if (path := f"metrics/{name}.json")}
    curves = {name: content(f"metrics/train/plots/metrics/{name}.tsv") or b"" for name in CURVES}
    return RunFacts(
        parse_lock(lock, "dvc.lock") if lock else {},
        {name: files.parse_json(found, path) for name, (path, found) in metrics.items() if found is not None},
        {name: _curve(found.decode("utf-8"), name) for name, found in curves.items()},
        {},
    )


def _curve(text: str, name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in csv.DictReader(text.splitlines(), delimiter="\t")]


def _answers(model: str) -> str:
    return f"metrics/eval/{model}.answers.jsonl"


def _fetch(path: str, commit: repository.Commit, target: Path) -> bool:
    """Get an out of a commit from DVC's remote."""
    command = [sys.executable, "-m", "dvc", "get", "--quiet", "--rev", commit, f"--out={target}", "--", ".", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
