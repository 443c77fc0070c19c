"""Fixtures of the container tests: an engine, the images, and a checkout to run stages in."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import missing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine that answers, or a skip."""
    if not runpy.run_path(str(ROOT / "docker" / "runtime.py"))["engine_answers"]():
        missing("engine")


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, str]:
    """The images of the pipeline by target; built if they are missing."""
    targets = ("trainer", "awq")
    command = [sys.executable, str(ROOT / "docker" / "image.py"), *targets]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(targets, done.stdout.split(), strict=True))


@pytest.fixture
def checkout(tmp_path: Path, images: dict[str, str]) -> Path:
    """A folder with everything that a stage in a container uses of the repository."""
    folder = tmp_path / "check out, with a comma"
    folder.mkdir()
    for name in ("docker", "requirements", "stages"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".dockerignore", "dvc.yaml", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a user who chose containers."""
    ours = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "LOG_FOLDER", "RUN", "VENV")}
    return ours | {"RUNTIME": "docker"}


@pytest.fixture
def run(checkout: Path, environment: dict[str, str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command in a container: `run("python", "-c", code, stage="base", HF_TOKEN="secret")`."""

    def run(*command: str, stage: str = "train", **variables: str) -> "subprocess.CompletedProcess[str]":
        line = [str(checkout / "docker" / "run"), "--name", stage, *command]
        return subprocess.run(line, cwd=checkout, env=environment | variables, capture_output=True, text=True)

    return run


@pytest.fixture
def containers(checkout: Path) -> Callable[[], list[str]]:
    """List the containers of the checkout, in any state."""
    command = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"label=lockstep.home={checkout}"]
    return lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
