"""Fixtures of the container tests: an engine, the images, and a checkout to run stages in."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, int]]:
    """A listener on another machine: in a network namespace, with an address that this machine has a route to."""
    if os.getuid() != 0 or not shutil.which("ip"):
        missing("not root, or no iproute2: run `sudo .ci/engine make test ARGS=tests/docker`")
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    name, near, far = f"lockstep-outside-{worker}", f"lsnear{worker}", f"lsfar{worker}"
    ours, theirs = (f"198.18.7.{4 * worker + place}" for place in (1, 2))
    ip("netns", "add", name)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        ip("address", "add", f"{ours}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", name, "address", "add", f"{theirs}/30", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "http.server", "8000", "--bind", theirs]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield theirs, 8000
        process.kill()
        process.wait()
    finally:
        ip("netns", "delete", name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
