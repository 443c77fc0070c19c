"""`make stop` stops what runs in a checkout, and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stage_runs import ROOT
from training import link

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
    assert succeed(stop.main) == f"stopping train (process {process.pid})\ntrain has ended\n"
    assert process.wait() == 128 + signal.SIGTERM


def test_servers_and_stages_are_stopped_apart(
    launch: Callable[[str], subprocess.Popen[str]], succeed: Callable[..., str]
) -> None:
    process = launch(POLITE)
    for other in ("serve", "merge"):
        assert succeed(stop.main, "--what", other) == f"nothing of {other} runs here; running are train\n"
    assert process.poll() is None
    assert "train has ended" in succeed(stop.main, "--what", "stages")
    assert process.wait() == 128 + signal.SIGTERM


def test_one_that_does_not_end_is_killed_with_its_children(
    launch: Callable[[str], subprocess.Popen[str]], succeed: Callable[..., str]
) -> None:
    process = launch(DEAF)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    assert children
    assert "train was killed" in succeed(stop.main, "--wait", "0.5")
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


@pytest.mark.parametrize(
    ("facts", "before", "afterwards"),
    [
        (
            {"doing": "step", "done": 17, "saved": 10, "seconds_per_step": 38.04},
            ": it ends after step 18 of 120, in about 33 s (a step takes 38.0 s)",
            ": the checkpoint of step 10 of 120 is saved, 7 steps after it are lost",
        ),
        (
            {"doing": "step", "done": 0, "saved": 0, "seconds_per_step": None},
            ": it ends after step 1 of 120, the first one, so its time is not known",
            ": no checkpoint is saved, so the next `make repro` starts it from step 0",
        ),
        (
            {"doing": "evaluation", "done": 60, "saved": 60, "seconds_per_step": 2.0},
            ": it evaluates after step 60, and ends after the next one",
            ": the checkpoint of step 60 of 120 is saved, nothing is lost",
        ),
    ],
)
def test_it_says_what_it_waits_for_and_what_is_lost(facts: dict[str, Any], before: str, afterwards: str) -> None:
    progress = facts | {"steps": 120, "since": time.time() - 5}
    assert stop.after(progress) == f"{before}; run `make stop` again to stop now, `make stop WAIT=0` to kill it"
    assert stop.outcome(progress) == afterwards


def test_a_training_is_given_the_time_of_its_step(
    params: Callable[..., Path], base: Path, prepared: Path, succeed: Callable[..., str]
) -> None:
    """The real stage, started as `dvc repro` does, is stopped at its first step, and resumes from there."""
    folder = link(params({}).parent, base, prepared)
    shutil.copytree(ROOT / "docker", folder / "docker")
    environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"}
    environment |= {"RUNTIME": "local", "VENV": sys.prefix, "PYTHONPATH": str(ROOT), "RUN": "here"}
    command = [sys.executable, "docker/run", "python", "-m", "stages.train"]
    written = folder / "logs" / "here" / "train" / "progress.json"
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while not written.exists():
            assert process.poll() is None
            time.sleep(0.05)
        output = succeed(stop.main)
        assert process.wait(60) == 128 + signal.SIGTERM
    step = json.loads(written.read_text(encoding="utf-8"))["done"]
    assert f"train has ended: the checkpoint of step {step} of " in output
    assert output.endswith(" is saved, nothing is lost\n")
    assert next((folder / ".scratch" / "train").glob("*/checkpoint-*")).name == f"checkpoint-{step}"
