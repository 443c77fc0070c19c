"""Fixtures of the trace tests."""

import shutil
from pathlib import Path

import pytest
import trace_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A project with two versions of data and models: one committed and tagged `first`, one in the workspace."""
    folder = tmp_path_factory.mktemp("finished")
    trace_project.build(folder, base)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the project that a test may break; `succeed` and `fail` run in it."""
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
