"""Resume: a training that is killed at any moment resumes and ends with the same bytes; two never run at once."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from training import link

from stages.common import files, tokens
from stages.train import __main__ as stage

pytestmark = pytest.mark.slow
CHANGES = {
    "train.sft.num_train_epochs": 6,
    "train.sft.logging_steps": 4,
    "train.lora.lora_dropout": 0.1,  # draws random numbers, whose state must be restored
    "train.machine.save_steps": 3,
}


def train(folder: Path, limit: int | None = None, memory: int | None = None) -> None:
    """Run the stage in a process of its own.

    Args:
        folder: the workspace.
        limit: size in bytes above which no file can be written.
        memory: bytes that it may allocate.
    """
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if memory:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    stage.main(["--base", "models/base"], standalone_mode=True)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that start with the libraries already imported, as copies of one that has computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dvclive", "stages.train.checkpoints", "stages.train.loop"])
    return context


@pytest.fixture
def start(processes: ForkServerContext, run: Path) -> Iterator[Callable[..., ForkServerProcess]]:
    """Start a training in `run`; it is killed if it still runs at the end of the test."""
    started = []

    def start(limit: int | None = None, memory: int | None = None) -> ForkServerProcess:
        process = processes.Process(target=train, args=(run, limit, memory))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def run(params: Callable[..., Path], base: Path, prepared: Path) -> Path:
    """A workspace to train in."""
    return link(params(CHANGES).parent, base, prepared)


def outs(folder: Path) -> dict[str, str]:
    """Return the hashes of everything that a training writes."""
    return files.hashes(folder / "models" / "adapter") | files.hashes(folder / "metrics")


@pytest.fixture(scope="module")
def uninterrupted(
    processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory, base: Path, prepared: Path
) -> dict[str, str]:
    """The outputs of a training that nobody interrupts."""
    from stage_runs import write_params

    folder = tmp_path_factory.mktemp("uninterrupted")
    write_params(folder, CHANGES)
    link(folder, base, prepared)
    process = processes.Process(target=train, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0, (folder / "log.txt").read_text(encoding="utf-8")
    assert not list((folder / ".scratch" / "train").iterdir())
    return outs(folder)


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint in a folder with one training, 0 for none."""
    steps = [int(path.name.partition("-")[2]) for path in folder.glob(".scratch/train/*/checkpoint-*[0-9]")]
    return max(steps, default=0)


def wait_for(condition: Callable[[], Any], process: ForkServerProcess, folder: Path) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < end, (folder / "log.txt").read_text(encoding="utf-8")
        time.sleep(0.001)


def wait_for_step(step: int, process: ForkServerProcess, folder: Path) -> None:
    wait_for(lambda: newest(folder) >= step, process, folder)


def finish(process: ForkServerProcess, folder: Path) -> str:
    process.join()
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert process.exitcode == 0, log
    return log


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_with_the_same_bytes(
    start: Callable[..., ForkServerProcess], run: Path, uninterrupted: dict[str, str]
) -> None:
    rng = random.Random(7)
    done = 0
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGKILL]:
        process = start()
        wait_for_step(done + 1, process, run)
        time.sleep(rng.random() * 0.1)
        assert process.pid
        os.kill(process.pid, number)
        process.join()
        expected = -number if number == signal.SIGKILL else 128 + number
        assert process.exitcode == expected, (run / "log.txt").read_text(encoding="utf-8")
        assert newest(run) > done
        done = newest(run)
        assert not (run / "models" / "adapter").exists()
    log = finish(start(), run)
    assert log.count("resuming from step") == 6
    assert outs(run) == uninterrupted
    assert not list((run / ".scratch" / "train").iterdir())


def test_killed_while_it_writes_a_checkpoint_it_resumes_from_the_one_before(
    start: Callable[..., ForkServerProcess], run: Path, uninterrupted: dict[str, str]
) -> None:
    process = start()
    wait_for_step(3, process, run)
    wait_for(lambda: list(run.glob(".scratch/train/*/writing/checkpoint-*/adapter_model*")), process, run)
    process.kill()
    process.join()
    assert list(run.glob(".scratch/train/*/writing/checkpoint-*")), "it was killed too late"
    before = newest(run)
    log = finish(start(), run)
    assert f"resuming from step {before} of" in log
    assert outs(run) == uninterrupted


def test_a_checkpoint_that_does_not_read_back_is_set_aside(
    start: Callable[..., ForkServerProcess], run: Path, uninterrupted: dict[str, str]
) -> None:
    process = start()
    wait_for_step(6, process, run)
    process.kill()
    process.join()
    step = newest(run)
    (folder,) = (run / ".scratch" / "train").iterdir()
    broken = folder / f"checkpoint-{step}" / "optimizer.pt"
    broken.write_bytes(broken.read_bytes()[:-1])
    log = finish(start(), run)
    assert f"checkpoint-{step} set aside: optimizer.pt is not what was written" in log
    assert f"resuming from step {step - 3} of" in log
    assert outs(run) == uninterrupted


def test_after_a_full_disk_it_resumes_from_the_last_checkpoint(
    start: Callable[..., ForkServerProcess], run: Path, uninterrupted: dict[str, str]
) -> None:
    process = start()
    wait_for_step(3, process, run)
    process.kill()
    process.join()
    step = newest(run)
    process = start(limit=4096)
    process.join()
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert process.exitcode == 1
    assert f"the checkpoint of step {step + 3} cannot be written" in log
    assert f"free some space and run the same command again: it resumes from step {step}" in log
    assert newest(run) == step
    finish(start(), run)
    assert outs(run) == uninterrupted


def test_the_second_training_names_the_first(start: Callable[..., ForkServerProcess], run: Path) -> None:
    process = start()
    wait_for_step(3, process, run)
    second = start()
    second.join()
    assert second.exitcode == 1
    message = (
        f"Error: .scratch/train.lock: held by process {process.pid} on {os.uname().nodename}, which trains in {run}"
    )
    assert f"{message}; wait for it, or end it with `make stop`" in (run / "log.txt").read_text(encoding="utf-8")
    process.kill()
    process.join()
    finish(start(), run)


def test_other_params_start_from_step_0(
    start: Callable[..., ForkServerProcess], run: Path, params: Callable[..., Path]
) -> None:
    process = start()
    wait_for_step(3, process, run)
    process.kill()
    process.join()
    params(CHANGES | {"train.sft.learning_rate": 0.001})
    (run / "log.txt").unlink()
    assert "resuming" not in finish(start(), run)


def test_how_often_it_saves_changes_no_byte(
    start: Callable[..., ForkServerProcess], run: Path, params: Callable[..., Path], uninterrupted: dict[str, str]
) -> None:
    params(CHANGES | {"train.machine.save_steps": 1000, "train.machine.report_to": ["tensorboard"]})
    finish(start(), run)
    assert outs(run) == uninterrupted


def test_the_curves_grow_during_the_run(start: Callable[..., ForkServerProcess], run: Path) -> None:
    process = start()
    curve = run / "metrics" / "train" / "plots" / "metrics" / "loss.tsv"
    wait_for_step(6, process, run)
    assert process.is_alive()
    assert curve.read_text(encoding="utf-8").splitlines()[0] == "step\tloss"
    assert json.loads((run / "metrics" / "train" / "metrics.json").read_text(encoding="utf-8"))["step"] >= 4


OTHERS: dict[str, dict[str, Any]] = {
    "packed rows": {"train.batch_size": 4, "train.sft.packing": True, "train.sft.max_length": 128},
    "a tied embedding": {"train.lora.modules_to_save": ["embed_tokens"], "train.lora.ensure_weight_tying": True},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_others_resume_with_the_same_bytes(
    start: Callable[..., ForkServerProcess], params: Callable[..., Path], run: Path, changes: dict[str, Any]
) -> None:
    params(CHANGES | changes)
    finish(start(), run)
    expected = outs(run)
    for folder in ("models/adapter", "metrics"):
        shutil.rmtree(run / folder)
    process = start()
    wait_for_step(6, process, run)
    process.kill()
    process.join()
    assert not (run / "models" / "adapter").exists()
    assert "resuming from step" in finish(start(), run)
    assert outs(run) == expected


def test_out_of_memory_names_settings_and_the_first_one_helps(
    start: Callable[..., ForkServerProcess], params: Callable[..., Path], run: Path
) -> None:
    (run / "data" / "prepared").unlink()
    (run / "data" / "prepared").mkdir()
    ids, masks = [[5] * 2000] * 8, [[0] * 1990 + [1] * 10] * 8
    for name in ("train", "val"):  # 8 rows' attention scores are 0.5 GB a layer, those of one row 64 MB
        with pa.ipc.new_stream(str(run / "data" / "prepared" / f"{name}.arrow"), tokens.SCHEMA) as out:
            out.write_batch(pa.record_batch([ids, masks], schema=tokens.SCHEMA))
    changes = {"train.attn_implementation": "eager", "train.sft.max_steps": 1}
    params({**changes, "train.machine.device_batch_size": 8})
    process = start(memory=10**9)
    process.join()
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert process.exitcode == 1, log
    wanted = (
        "params.yaml: train: out of memory at step 1; lower or set, in this order: train.machine.device_batch_size"
    )
    assert wanted in log
    assert "Traceback" not in log
    params({**changes, "train.machine.device_batch_size": 1})
    finish(start(memory=10**9), run)
