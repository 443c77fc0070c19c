"""Fixtures of the awq tests: runs of the stage with other params."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.awq import __main__ as stage


@pytest.fixture
def quantise(
    params: Callable[..., Path], succeed: Callable[..., str], merged: Path, prepared: Path
) -> Callable[..., Path]:
    """Quantise the session's merged model with other params or rows, and return the folder of the run."""

    def quantise(changes: dict[str, Any], rows: Path | None = None) -> Path:
        folder = params(changes).parent
        succeed(stage.main, "--model", merged, "--calibration", rows or prepared / "calibration.arrow")
        return folder

    return quantise


@pytest.fixture
def refuse(params: Callable[..., Path], fail: Callable[..., str], merged: Path, prepared: Path) -> Callable[..., str]:
    """Quantise with params or a model that cannot work, and return the message; nothing may be left."""

    def refuse(changes: dict[str, Any], model: Path | None = None) -> str:
        folder = params(changes).parent
        message = fail(stage.main, "--model", model or merged, "--calibration", prepared / "calibration.arrow")
        given = {folder / "params.yaml", *(model.iterdir() if model else ())}
        assert {path for path in folder.rglob("*") if path.is_file()} <= given
        return message

    return refuse
