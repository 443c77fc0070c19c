"""Lineage runs: calls of `make lineage` in a repository of recorded runs, and its lock at a revision."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from recorded import ENVIRONMENT, run
from ruamel.yaml import YAML
from stage_runs import ROOT, succeed_in

from tools.lineage import __main__ as lineage


def lineage_json(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """Return what `--format json` prints."""
    return json.loads(succeed_in(folder, lineage.main, "--format", "json", *arguments))


def lock_at(folder: Path, revision: str) -> dict[str, Any]:
    """Return the stages of dvc.lock at a revision."""
    return YAML(typ="safe").load(run(folder, "git", "show", f"{revision}:./dvc.lock"))["stages"]


def notes(folder: Path, *arguments: str) -> str:
    """Return the notes that the command prints."""
    command = [sys.executable, "-m", "tools.lineage", *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stderr
