"""What the container tests share: an engine or a reason to skip, the images, and a checkout to run stages in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import missing

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def engine() -> None:
    """Something that runs containers."""
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=30)
        reason = done.stderr.strip()
    except FileNotFoundError:
        reason = "there is no `docker`"
    if reason:
        missing(f"no container engine answers (.ci/engine brings one up): {reason}")


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, str]:
    """The images of the pipeline by target; built if they are not there."""
    targets = ("trainer", "awq")
    command = [sys.executable, ROOT / "docker" / "image.py", *targets]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(targets, done.stdout.split(), strict=True))


@pytest.fixture
def checkout(tmp_path: Path, images: dict[str, str]) -> Path:
    """A folder with all that a stage in a container uses of the repository."""
    folder = tmp_path / "check out, with a comma"
    folder.mkdir()
    for name in ("docker", "requirements", "stages"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".dockerignore", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a user who asks for containers."""
    ours = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "LOG_FOLDER", "RUN", "VENV")}
    return ours | {"RUNTIME": "docker"}


@pytest.fixture
def run(checkout: Path, environment: dict[str, str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command in a container: `run("python", "-c", code, stage="base", HF_TOKEN="secret")`."""

    def run(*command: str, stage: str = "train", **variables: str) -> "subprocess.CompletedProcess[str]":
        line = [checkout / "docker" / "run", "--name", stage, *command]
        return subprocess.run(line, cwd=checkout, env=environment | variables, capture_output=True, text=True)

    return run


@pytest.fixture
def containers(checkout: Path) -> Callable[[], list[str]]:
    """Name the containers of the checkout, whatever their state."""
    command = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"label=lockstep.home={checkout}"]
    return lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
