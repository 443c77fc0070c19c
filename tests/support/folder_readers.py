"""Folder readers: the stages that read a folder in models/, and the outputs of a run that a test may change."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded import LIMITS, write_metrics

from stages.awq import __main__ as awq
from stages.eval import __main__ as eval
from stages.merge import __main__ as merge
from stages.report import __main__ as report
from stages.train import __main__ as train

# Stages and folders, each with the stage's command and what follows it.
READERS = {
    ("train", "base"): (train.main, ()),
    ("merge", "base"): (merge.main, ()),
    ("merge", "adapter"): (merge.main, ()),
    ("awq", "base"): (awq.main, ()),
    ("awq", "adapter"): (awq.main, ()),
    ("eval", "awq"): (eval.main, ("--model", "models/awq", "--metrics", "x.json", "--answers", "x.jsonl")),
    ("report", "awq"): (report.main, ()),
}


@pytest.fixture
def outputs(params: Callable[..., Path], workspace: Path, scored: Path, tmp_path: Path) -> Path:
    """Copy the outputs of every stage (`scored` runs them), so that a test can change them."""
    params(LIMITS)
    for name in ("data", "models", "requirements"):
        shutil.copytree(workspace / name, tmp_path / name)
    write_metrics(tmp_path, {})
    return tmp_path
