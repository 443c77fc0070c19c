"""The gate command compares the bytes of the models with those that the report stage judged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorded import LIMITS, write_metrics

from stages.report import __main__ as report
from tools import gate


@pytest.fixture
def judged(
    params: Callable[..., Path], succeed: Callable[..., str], workspace: Path, scored: Path, tmp_path: Path
) -> Path:
    """Copy the outputs of every stage (`scored` runs them), let report judge them, and return the copy."""
    params(LIMITS)
    for name in ("data", "models", "requirements"):
        shutil.copytree(workspace / name, tmp_path / name)
    write_metrics(tmp_path, {})
    succeed(report.main)
    return tmp_path


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less"])
def test_make_gate_refuses_other_bytes_than_those_judged(
    judged: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.chdir(judged)
    assert CliRunner().invoke(gate.main).exit_code == 0
    path = judged / "models" / "awq" / ("more.json" if change == "a file more" else "model.safetensors")
    if change == "a byte":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif change == "a file more":
        path.write_text("{}")
    else:
        path.unlink()
    done = CliRunner().invoke(gate.main)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{path.relative_to(judged)}: ")
    assert "`dvc checkout --force models/awq`" in done.stderr


def test_make_gate_needs_no_models(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(judged / "models" / "merged")
    monkeypatch.chdir(judged)
    assert CliRunner().invoke(gate.main).exit_code == 0
