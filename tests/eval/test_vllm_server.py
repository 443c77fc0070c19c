"""vLLM's server: it ends with the stage, however the stage ends, knows no secret, and reaches nothing."""

import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click
import pytest
from needs import missing
from processes import alive, below, words
from traced import STRACE, attempts, require_strace

from stages.eval import guard, vllm_server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# A stage that starts a program which starts another, prints "running" when both run, and then does what it is told.
# The program ignores SIGTERM, as vLLM does while it loads.
STAGE = """
import subprocess, sys, time
import signal
from pathlib import Path
from stages.eval import vllm_server

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
SHELL = "trap '' TERM; sleep 1000 & echo $$ $!; wait"
vllm_server.STOP_SECONDS = 0.5
with vllm_server.running(["sh", "-c", SHELL], {}, Path(sys.argv[1])):
    while len(Path(sys.argv[1]).read_text().split()) < 2:
        time.sleep(0.01)
    print("running", flush=True)
    exec(sys.argv[2])
"""


def start(tmp_path: Path, then: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """Start the stage, and return it and the ids of the processes that it started."""
    log = tmp_path / "log"
    log.touch()
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(log), then],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == "running\n"
    return stage, [int(pid) for pid in log.read_text(encoding="utf-8").split()]


def wait_for_end(pids: list[int]) -> list[int]:
    """Wait until the processes end, and return those that do not."""
    end = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize(
    ("bits", "cpu", "refused"),
    [(4, "flags: avx2", True), (4, "flags: avx2 avx512f", False), (8, "flags: avx2", False), (None, "flags:", False)],
)
def test_4_bit_weights_need_avx512_on_a_cpu(
    bits: int | None, cpu: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"group_0": {"weights": {"num_bits": bits}}}
    config = {"quantization_config": {"config_groups": groups}} if bits else {}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "cpuinfo").write_text(cpu, encoding="utf-8")
    monkeypatch.setattr(vllm_server, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(click.ClickException, match="AVX-512") if refused else nullcontext():
        vllm_server.require_kernels(tmp_path)


@pytest.mark.parametrize("then", ["pass", "raise ValueError('a mistake')", "sys.exit(3)"])
def test_no_process_is_left_when_the_stage_ends(tmp_path: Path, then: str) -> None:
    stage, pids = start(tmp_path, then)
    stage.communicate()
    assert stage.returncode == {"pass": 0, "sys.exit(3)": 3}.get(then, 1)
    assert wait_for_end(pids) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_a_signal_ends_the_stage(tmp_path: Path, number: signal.Signals) -> None:
    stage, pids = start(tmp_path, "time.sleep(1000)")
    assert all(map(alive, pids))
    stage.send_signal(number)
    stage.communicate()
    assert stage.returncode != 0
    assert wait_for_end(pids) == []


def test_vllm_knows_nothing_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in vLLM's place writes down what it gets, and ends."""
    program = tmp_path / "venv" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat /proc/$$/environ >'{tmp_path}/environ'\n", encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    secrets = ("OPENAI_API_KEY", "ADMIN_PASSWORD", "AWS_SECRET_ACCESS_KEY", "VLLM_PLUGINS", "PYTHONPATH")
    for name in secrets:
        monkeypatch.setenv(name, "of the shell")
    for name, value in {"VLLM_VENV": str(tmp_path / "venv"), "LOG_FOLDER": str(tmp_path), "MKL_CBWR": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(click.ClickException, match="vLLM did not start"), vllm_server.start(tmp_path, 1):
        pass
    lines = (tmp_path / "environ").read_text(encoding="utf-8").split("\0")
    found = dict(line.split("=", 1) for line in lines if line)
    assert not set(secrets) & found.keys()
    assert (found["MKL_CBWR"], found["HF_HUB_OFFLINE"], found["VLLM_CPU_KVCACHE_SPACE"]) == ("x", "1", "1")
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://127.0.0.1:9"


def test_vllm_reaches_nothing_and_does_not_try(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path(os.environ.get("VLLM_VENV", ROOT / ".serve" / "vllm")) / "bin" / "vllm"
    if not real.exists():
        missing("serving")
    require_strace()
    program, trace = tmp_path / "venv" / "bin" / "vllm", tmp_path / "trace"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join([*STRACE, str(trace), str(real)])} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("VLLM_VENV", str(tmp_path / "venv"))
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path))
    with vllm_server.start(base, 1) as client:
        body = {"model": vllm_server.NAME, "prompt": [[5, 6, 7]], "max_tokens": 4}
        assert client.post("/v1/completions", json=body).is_success
        started = [pid for pid in below(os.getpid()) if str(real) in words(pid)]
        networks = [Path(f"/proc/{pid}/net/dev").read_text(encoding="utf-8") for pid in started]
    seen = trace.read_text(encoding="utf-8")
    assert "sa_family=" in seen  # connections to sockets of this machine
    assert attempts(seen) == []
    assert networks
    if guard.can_leave_network():
        assert [re.findall(r"^ *(\S+):", text, re.MULTILINE) for text in networks] == [["lo"]] * len(networks)
