"""A checkout to break: with what the doctor looks at, and the environment of the tests."""

import shutil
import sys
from pathlib import Path

import pytest
from stage_runs import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder for the test: a checkout in which nothing is wrong."""
    folder = tmp_path / "checkout"
    for name in ("docker", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    (folder / ".dvc" / "cache").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    (folder / ".venv").symlink_to(sys.prefix)
    monkeypatch.chdir(folder)
    for name in ("VENV", "HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNTIME", "local")
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder
