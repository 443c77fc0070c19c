"""Fixtures of the awq tests: runs of the stage with other params."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.awq import __main__ as stage


@pytest.fixture
def inputs(workspace: Path, merged: Path) -> Callable[..., list[str | Path]]:
    """The options that name the session's run, some of them replaced: `inputs(base=folder)`."""

    def inputs(**others: Path) -> list[str | Path]:
        named = {
            "base": workspace / "models" / "base",
            "adapter": workspace / "models" / "adapter",
            "val": workspace / "data" / "prepared" / "val.arrow",
            "merge": workspace / "metrics" / "merge.json",
            "calibration": workspace / "data" / "prepared" / "calibration.arrow",
        }
        return [part for name, path in (named | others).items() for part in (f"--{name}", path)]

    return inputs


@pytest.fixture
def quantise(
    params: Callable[..., Path], succeed: Callable[..., str], inputs: Callable[..., list[str | Path]]
) -> Callable[..., Path]:
    """Quantise the session's base + adapter with other params or rows, and return the folder of the run."""

    def quantise(changes: dict[str, Any], **others: Path) -> Path:
        folder = params(changes).parent
        succeed(stage.main, *inputs(**others))
        return folder

    return quantise


@pytest.fixture
def refuse(
    params: Callable[..., Path], fail: Callable[..., str], inputs: Callable[..., list[str | Path]]
) -> Callable[..., str]:
    """Quantise with params or a base that cannot work, and return the message; nothing may be left."""

    def refuse(changes: dict[str, Any], base: Path | None = None) -> str:
        folder = params(changes).parent
        message = fail(stage.main, *inputs(**({"base": base} if base else {})))
        given = {folder / "params.yaml", *(base.iterdir() if base else ())}
        assert {path for path in folder.rglob("*") if path.is_file()} <= given
        return message

    return refuse
