"""`make stop` stops what runs in a checkout, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage_runs import ROOT

from tools import stop

POLITE = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {POLITE}"

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Run Python code as a stage through a copy of docker/run in tmp_path."""
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    started = []

    def launch(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "docker/run", "--name", "train", sys.executable, "-c", code]
        environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"}
        environment |= {"RUNTIME": "local", "VENV": sys.prefix}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield launch
    for process in started:
        process.kill()
        process.wait()


def test_nothing_runs(succeed: Callable[..., str]) -> None:
    assert succeed(stop.main) == "nothing runs here\n"


def test_a_stage_is_asked_to_end(launch: Callable[[str], subprocess.Popen[str]], succeed: Callable[..., str]) -> None:
    process = launch(POLITE)
    assert succeed(stop.main) == (
        f"stopping train (process {process.pid}) after this step; run `make stop` again to stop now\n"
        "train has ended\n"
    )
    assert process.wait() == 128 + signal.SIGTERM


def test_one_that_does_not_end_is_killed_with_its_children(
    launch: Callable[[str], subprocess.Popen[str]], succeed: Callable[..., str]
) -> None:
    process = launch(DEAF)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    assert children
    assert "train has ended" in succeed(stop.main, "--wait", "0.5")
    assert process.wait() == -signal.SIGKILL
    end = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_the_file_of_a_killed_stage_is_removed(
    launch: Callable[[str], subprocess.Popen[str]], succeed: Callable[..., str], tmp_path: Path
) -> None:
    process = launch(POLITE)
    process.kill()
    process.wait()
    assert list((tmp_path / ".scratch" / "running").iterdir())
    assert succeed(stop.main) == "nothing runs here\n"
    assert not list((tmp_path / ".scratch" / "running").iterdir())
