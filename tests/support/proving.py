"""Fixtures: a commit in which every gate passes, so that its models may be served."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded import Recorded, commit, run
from stage_runs import ROOT


@pytest.fixture(scope="module")
def passed(repository: Recorded) -> Iterator[str]:
    """A commit, in the repository of recorded runs, in which every gate passes."""
    folder = repository.folder
    gates = folder / "metrics" / "gates.json"
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    for verdict in verdicts.values():
        verdict.pop("problem", None)
        verdict["passed"] = True
    gates.write_text(json.dumps(verdicts))
    run(folder, "dvc", "commit", "--force", "--quiet", "report")
    shutil.copytree(ROOT / "docker", folder / "docker")
    yield commit(folder, "passed")
    back(folder, repository.other)


@pytest.fixture
def proven(repository: Recorded, passed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That repository, restored afterwards."""
    monkeypatch.chdir(repository.folder)
    yield repository.folder
    back(repository.folder, passed)


def back(folder: Path, to: str) -> None:
    run(folder, "git", "clean", "--quiet", "--force", "-dx", ".serve", ".env", "docker")
    run(folder, "git", "checkout", "--quiet", "--force", "-B", "main", to)
    shutil.rmtree(folder / "models")
    shutil.copytree(folder / ".git" / "models", folder / "models")


def write(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text, encoding="utf-8")
