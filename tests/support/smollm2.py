"""SmolLM2: a real chat model for tests, made once in a session from the Python package that its recipe names."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from stage_runs import ROOT, write_params

from stages.common.params import read_yaml

if TYPE_CHECKING:
    from suite import Once


def flat(section: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Turn the sections of a recipe into dotted keys. What a gate holds is one value."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        whole = not isinstance(value, dict) or above == "gates."
        found |= {above + name: value} if whole else flat(value, f"{above}{name}.")
    return found


# The recipe smollm2-135m by dotted keys.
SETTINGS = flat(read_yaml(ROOT / "recipes" / "smollm2-135m.yaml"))


@pytest.fixture(scope="session")
def smollm2(once: "Once") -> Path:
    """models/base of the recipe smollm2-135m; the test skips where the package index is not reachable."""

    def make(shared: Path) -> list[str]:
        folder = shared / "smollm2"
        folder.mkdir()
        write_params(folder, SETTINGS)
        command = [sys.executable, "-m", "stages.base", "--templates", str(ROOT / "data" / "templates")]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return [str(folder / "models" / "base"), done.stderr.splitlines()[-1] if done.returncode else ""]

    folder, problem = once("smollm2", make)
    if "(from versions: none)" in problem:
        pytest.skip(f"the package index is not reachable: {problem}")
    assert not problem
    return Path(folder)
