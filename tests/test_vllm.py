"""vLLM: its server lives as long as it is asked, and what it says and costs is what transformers computes.

The comparison needs vLLM in an environment of its own, named in VLLM_VENV or in .serve/vllm; it takes minutes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import missing
from processes import alive
from talking import GENERAL

from stages import eval as stage
from stages.common import files

ROOT = Path(__file__).parents[1]
VLLM = Path(os.environ.get("VLLM_VENV", ROOT / ".serve" / "vllm")) / "bin" / "vllm"
# Starts a program that starts another, says when both run, and then does what it was told. Like vLLM while it loads,
# the program does not listen to SIGTERM.
HOST = """
import subprocess, sys, time
import signal
from pathlib import Path
from stages.common import server

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background does without
SHELL = "trap '' TERM; sleep 1000 & echo $$ $!; wait"
server.STOP_SECONDS = 0.5
with server.running(["sh", "-c", SHELL], {}, Path(sys.argv[1])):
    while len(Path(sys.argv[1]).read_text().split()) < 2:
        time.sleep(0.01)
    print("running", flush=True)
    exec(sys.argv[2])
"""


def start(tmp_path: Path, then: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """Start a host and what it serves, and give the processes that it started."""
    log = tmp_path / "log"
    log.touch()
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(log), then],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    assert host.stdout.readline() == "running\n"
    return host, [int(pid) for pid in log.read_text(encoding="utf-8").split()]


def wait_for_end(pids: list[int]) -> list[int]:
    """Wait until the processes are gone, and give those that are not."""
    end = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize("then", ["pass", "raise ValueError('a mistake')", "sys.exit(3)"])
def test_nothing_is_left_when_the_work_ends(tmp_path: Path, then: str) -> None:
    host, pids = start(tmp_path, then)
    host.communicate()
    assert host.returncode == {"pass": 0, "sys.exit(3)": 3}.get(then, 1)
    assert wait_for_end(pids) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_stage_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    host, pids = start(tmp_path, "time.sleep(1000)")
    assert all(map(alive, pids))
    host.send_signal(number)
    host.communicate()
    assert host.returncode != 0
    assert wait_for_end(pids) == []


@pytest.fixture
def evaluate(prepared: Path) -> tuple[str | Path, ...]:
    return (
        *("--val", prepared / "val.jsonl", "--tokens", prepared / "val.arrow", "--general", GENERAL),
        *("--metrics", "x.json", "--answers", "x.jsonl"),
    )


@pytest.fixture
def folder(params: Callable[..., Path]) -> Path:
    """A folder whose params ask for vLLM."""
    return params({"eval.backend": "vllm"}).parent


@pytest.fixture
def refused(
    folder: Path, fail: Callable[..., str], merged: Path, evaluate: tuple[str | Path, ...]
) -> Callable[[], str]:
    """Evaluate there, and give the message."""
    return lambda: fail(stage.main, "--model", merged, *evaluate)


def test_without_vllm_the_stage_says_where_it_looked(
    folder: Path, refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_VENV", str(folder / "none"))
    assert refused() == f"{folder}/none/bin/vllm: no vLLM; name its environment in VLLM_VENV (docs/eval.md, Backends)"


def test_a_server_that_does_not_start_is_quoted(
    folder: Path, refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = folder / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho 'ValueError - no such model'\necho bye\nexit 1\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("VLLM_VENV", str(folder))
    monkeypatch.setenv("LOG_FOLDER", str(folder))
    assert refused() == f"vLLM did not start; {folder}/vllm.log: ValueError - no such model"
    assert not (folder / "x.json").exists()


@pytest.mark.parametrize("name", ["merged", "awq"])
def test_vllm_says_and_costs_what_transformers_does(
    params: Callable[..., Path],
    succeed: Callable[..., str],
    awq: Path,
    evaluate: tuple[str | Path, ...],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not VLLM.exists():
        missing(f"no vLLM in {VLLM.parents[1]}; `make serve` installs it, VLLM_VENV names another environment")
    monkeypatch.setenv("VLLM_VENV", str(VLLM.parents[1]))
    found: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for backend in ("hf", "vllm"):
        folder = params({"eval.backend": backend, "eval.tasks": [str(ROOT / "data/tasks/plain.yaml")]}).parent
        (folder / "data").mkdir(exist_ok=True)
        if not (folder / "data" / "tasks").exists():
            (folder / "data" / "tasks").symlink_to(ROOT / "data" / "tasks")
        succeed(stage.main, "--model", awq.with_name(name), *evaluate)
        found[backend] = json.loads((folder / "x.json").read_text()), files.read_rows(folder / "x.jsonl")
    (hf, hf_rows), (vllm, vllm_rows) = found["hf"], found["vllm"]
    assert vllm["answer_tokens"] == hf["answer_tokens"]
    for loss in ("loss", "general_loss"):
        assert vllm[loss] == pytest.approx(hf[loss], rel=0.02)  # bfloat16 against float32
    assert vllm["tasks"]["plain"]["acc"] == pytest.approx(hf["tasks"]["plain"]["acc"], abs=0.1)
    same = sum(one["answer"] == other["answer"] for one, other in zip(vllm_rows, hf_rows, strict=True))
    assert same >= 0.9 * len(hf_rows)
