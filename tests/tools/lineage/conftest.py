"""Fixtures of the lineage tests."""

import shutil
from collections.abc import Iterator

import pytest
from recorded import Recorded, run


@pytest.fixture
def clean(repository: Recorded) -> Iterator[Recorded]:
    """The repository of recorded runs, restored to its last commit afterwards."""
    yield repository
    run(repository.folder, "git", "checkout", "--quiet", "--force", "-B", "main", repository.other)
    shutil.rmtree(repository.folder / "models")
    shutil.copytree(repository.folder / ".git" / "models", repository.folder / "models")
