"""Start and stop vLLM's server, without a network where the system allows that, behind a free port of loopback.

vLLM runs in an environment of its own, since it cannot share the pipeline's: the folder that VLLM_VENV names, else
.serve/vllm. Used by vllm_backend.py; tools/serve starts the server that users see with the same settings.
"""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import device, workspace
from stages.eval import guard
from stages.eval.server_variables import COMPUTE, REFUSING_PROXY, SYSTEM, inherited

if TYPE_CHECKING:
    from httpx import Client

NAME = "model"  # the served model's name
SOCKET = "vllm.sock"
START_SECONDS = 1800.0  # three processes import vLLM one after the other; then it reads the weights
STOP_SECONDS = 60.0
CPUINFO = Path("/proc/cpuinfo")
# Environment variables.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else vLLM compiles the log-probabilities, and fails without a C++ compiler
    "VLLM_HOST_IP": "127.0.0.1",  # its processes find each other there
    "VLLM_CPU_INT4_W4A8": "0",  # else it also quantises activations on processors with AMX
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = [
    "--enforce-eager",  # starts sooner
    *("--generation-config", "vllm"),  # ignores the sampling settings of generation_config.json
    *("--max-model-len", "auto"),  # the model's own, or what fits into memory
    "--no-enable-prefix-caching",  # no answer depends on earlier requests
]


def require_kernels(folder: Path) -> None:
    """Refuse 4-bit weights on a CPU for which vLLM cannot compute with them: its server would die at a first request.

    Raises:
        click.ClickException: an x86 processor without AVX-512.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    groups = config.get("quantization_config", {}).get("config_groups", {}).values()
    if not any((group.get("weights") or {}).get("num_bits") == 4 for group in groups):
        return
    if platform.machine() == "x86_64" and CPUINFO.exists() and "avx512f" not in CPUINFO.read_text(encoding="utf-8"):
        raise click.ClickException(
            f"{folder}: vLLM computes with 4-bit weights on an NVIDIA GPU, or on a CPU with AVX-512, which this one "
            "does not have; use the model merged here (`make serve MODEL=merged`, params eval.backend: hf)"
        )


@contextmanager
def start(folder: Path, seed: int) -> Iterator["Client"]:
    """Serve a model folder, and end the server and its children when the block ends.

    Returns:
        A client of the server, as the value of the `with` statement.

    Raises:
        click.ClickException: vLLM is not installed or has no kernels for this CPU, or its server does not start or
            ends too early.
    """
    import httpx

    environment = Path(os.environ.get("VLLM_VENV", workspace.home() / ".serve" / "vllm")).absolute()
    command = environment / "bin" / "vllm"
    if not command.exists():
        raise click.ClickException(f"{command}: no such file; set VLLM_VENV to vLLM's environment (docs/eval.md)")
    if device.choose().name == "cpu":
        require_kernels(folder)
    log = Path(os.environ.get("LOG_FOLDER") or tempfile.mkdtemp()) / "vllm.log"
    click.echo(f"starting vLLM from {environment}, which takes a minute or two; log: {log}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = guard.can_leave_network()
    if not alone and len(socket.if_nameindex()) > 1:  # a container has loopback only
        click.echo("note: this system does not let vLLM run without a network; its settings keep it off others")
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1"} | inherited(*SYSTEM, *COMPUTE, "VLLM_CPU_KVCACHE_SPACE")
    variables |= SETTINGS | REFUSING_PROXY
    variables["PATH"] = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    with (
        tempfile.TemporaryDirectory() as private,
        running([*_command(command, folder, private, seed), *FLAGS], variables, log, alone=alone) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None) as client,
    ):
        # lm-evaluation-harness needs a port.
        guard.open_doors([[str(port), f"{private}/{SOCKET}"]])
        wait_until_ready(process, client, log)
        try:
            yield client
        except httpx.TransportError as error:
            raise click.ClickException(f"{log}: vLLM ended ({error}; {last_error(log)}); read this log") from None


def _command(vllm: Path, folder: Path, private: str, seed: int) -> list[str]:
    named = ("--served-model-name", NAME, "--seed", str(seed))
    return [str(vllm), "serve", str(folder), "--uds", f"{private}/{SOCKET}", *named]


@contextmanager
def running(
    command: list[str], variables: dict[str, str], log: Path, *, alone: bool = False
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program, and end it and its children when the block ends, or when SIGTERM or SIGKILL ends this process.

    Args:
        command: the program and its arguments.
        variables: its whole environment.
        log: the file that gets its output.
        alone: run it without a network, see guard.py.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, guard.__file__, *(["--alone"] if alone else []), "--", *command],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        signal.signal(signal.SIGTERM, before)


def wait_until_ready(process: "subprocess.Popen[bytes]", client: "Client", log: Path) -> None:
    """Wait until the server answers.

    Raises:
        click.ClickException: it ended, or needs more than START_SECONDS.
    """
    import httpx

    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):
            if client.get("/health").is_success:
                return
        time.sleep(1)
    raise click.ClickException(f"{log}: vLLM did not start ({last_error(log)}); read this log")


def last_error(log: Path) -> str:
    """Return the last line of the log that names an error."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if "Error" in line), "no line names an error")
