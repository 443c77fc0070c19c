"""Stages in containers: the same bytes as outside, and a killed training resumes."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import until
from stage_runs import write_params

from stages.common import files
from tools import stop

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow
CHANGES = {"train.sft.num_train_epochs": 6, "train.machine.save_steps": 3}


def outs(folder: Path) -> dict[str, str]:
    """Hash everything that the train stage writes."""
    return files.hashes(folder / "models" / "adapter") | files.hashes(folder / "metrics")


def test_every_stage_writes_the_same_bytes_as_outside(
    run: Run, checkout: Path, workspace: Path, compared: Path
) -> None:
    shutil.copyfile(workspace / "params.yaml", checkout / "params.yaml")
    shutil.copytree(workspace / "data", checkout / "data", ignore=shutil.ignore_patterns("prepared"))
    for stage in ("base", "preprocess", "train", "merge", "awq"):
        done = run("python", "-m", f"stages.{stage}", stage=stage)
        assert done.returncode == 0, done.stdout
    for model in ("base", "merged", "awq"):
        places = (f"metrics/eval/{model}.json", f"metrics/eval/{model}.answers.jsonl")
        line = ("python", "-m", "stages.eval", "--model", f"models/{model}", "--metrics", places[0], "--answers")
        assert run(*line, places[1], stage=f"eval@{model}").returncode == 0
    assert run("python", "-m", "stages.compare", stage="compare").returncode == 0
    for folder in ("models", "metrics", "data/prepared"):
        assert files.hashes(checkout / folder) == files.hashes(workspace / folder)


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, 0 for none."""
    return max((int(path.name[11:]) for path in folder.glob(".scratch/train/*/checkpoint-*[0-9]")), default=0)


@pytest.fixture
def ready(checkout: Path, base: Path, prepared: Path) -> Path:
    """The checkout, ready to train."""
    write_params(checkout, CHANGES)
    shutil.copytree(base, checkout / "models" / "base")
    shutil.copytree(prepared, checkout / "data" / "prepared")
    return checkout


@pytest.fixture
def start(ready: Path, environment: dict[str, str]) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Start the train stage in a process group of its own; it is killed at the end of the test."""
    started = []

    def start() -> "subprocess.Popen[bytes]":
        command = [str(ready / "docker" / "run"), "python", "-m", "stages.train"]
        with (ready / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ready, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def ctrl_c(process: int, folder: Path) -> None:
    os.killpg(process, signal.SIGINT)


def sigterm(process: int, folder: Path) -> None:
    os.kill(process, signal.SIGTERM)


def make_stop(process: int, folder: Path) -> None:
    with contextlib.chdir(folder):
        assert f"process {process}" in CliRunner().invoke(stop.main, []).output


def docker_kill(process: int, folder: Path) -> None:
    subprocess.run(["docker", "kill", f"lockstep-train-{process}"], check=True)


def kill_the_launcher(process: int, folder: Path) -> None:
    os.kill(process, signal.SIGKILL)


def test_a_training_that_ends_in_any_way_resumes_and_gives_the_same_bytes(
    ready: Path,
    start: Callable[[], "subprocess.Popen[bytes]"],
    containers: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    assert start().wait() == 0, (ready / "log.txt").read_text(encoding="utf-8")
    undisturbed = outs(ready)
    shutil.rmtree(ready / "metrics")
    for end in (docker_kill, ctrl_c, kill_the_launcher, sigterm, make_stop):
        before, process = newest(ready), start()
        while newest(ready) == before:
            assert process.poll() is None, (ready / "log.txt").read_text(encoding="utf-8")
            time.sleep(0.05)
        end(process.pid, ready)
        assert process.wait(timeout=60) != 0
        until(lambda: not containers())
    assert start().wait() == 0
    assert (ready / "log.txt").read_text(encoding="utf-8").count("resuming from step") == 5
    assert outs(ready) == undisturbed


def test_two_trainings_of_one_checkout_never_run_at_once(
    ready: Path, start: Callable[[], "subprocess.Popen[bytes]"], containers: Callable[[], list[str]]
) -> None:
    first = start()
    while not containers():
        assert first.poll() is None
        time.sleep(0.05)
    second = start()
    assert sorted([first.wait(), second.wait()]) == [0, 1]
    winner = second if first.returncode else first
    message = (ready / "log.txt").read_text(encoding="utf-8")
    assert f"lockstep-train-{winner.pid}" in message
    assert "`make stop`" in message


def test_make_stop_ends_a_container_without_a_launcher(
    checkout: Path, images: dict[str, str], containers: Callable[[], list[str]]
) -> None:
    line = ["docker", "run", "--detach", "--rm", "--init", "--name", "lockstep-train-0", "--network", "none"]
    label = f"lockstep.home={checkout}"
    subprocess.run([*line, "--label", label, images["trainer"], "sleep", "600"], check=True, capture_output=True)
    assert containers() == ["lockstep-train-0"]
    with contextlib.chdir(checkout):
        result = CliRunner().invoke(stop.main, [])
    assert "lockstep-train-0" in result.output
    until(lambda: not containers())
