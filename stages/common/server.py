"""Server: vLLM's own, on a free port of the loopback interface, from start to end.

vLLM cannot live in the pipeline's environment: its command comes from another, in VLLM_VENV or else .serve/vllm.
"""

import os
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

from stages.common import scratch

if TYPE_CHECKING:
    from httpx import Client

NAME = "model"  # as which the server knows it
START_SECONDS = 1800.0  # three processes import vLLM one after the other; then it reads the weights
STOP_SECONDS = 60.0
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else it compiles what computes log-probabilities, and dies without a C++ compiler
    "VLLM_CPU_INT4_W4A8": "0",  # on processors with AMX it would quantise activations, too
    "VLLM_NO_USAGE_STATS": "1",
}
FLAGS = [
    "--enforce-eager",  # starts sooner
    *("--generation-config", "vllm"),  # not the sampling of generation_config.json
    *("--max-model-len", "auto"),  # the model's own, or what fits into memory
    "--no-enable-prefix-caching",  # no answer is computed with what is left of an earlier one
]
# Stands between us and the server, and kills it and its children when the pipe to us breaks, as it does however we
# end, and the children when the server is killed itself. SIGTERM alone will not do: while vLLM loads, it is lost.
GUARD = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, lambda *_: server.terminate())
threading.Thread(target=lambda: (os.read(0, 1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
if (code := server.wait()) < 0:
    os.killpg(0, signal.SIGKILL)
sys.exit(code)
"""


@contextmanager
def start(folder: Path, seed: int) -> Iterator["Client"]:
    """Serve a model folder, and end the server and its children however the work ends.

    Raises:
        click.ClickException: no vLLM, or a server that does not start or does not last.
    """
    import httpx

    environment = Path(os.environ.get("VLLM_VENV", scratch.home() / ".serve" / "vllm")).absolute()
    command = environment / "bin" / "vllm"
    if not command.exists():
        raise click.ClickException(f"{command}: no vLLM; name its environment in VLLM_VENV (docs/eval.md, Backends)")
    log = Path(os.environ.get("LOG_FOLDER") or tempfile.mkdtemp()) / "vllm.log"
    click.echo(f"vLLM of {environment} starts, which takes a minute or two; its log: {log}")
    port = free_port()
    where = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME, "--seed", str(seed))
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ | SETTINGS
    variables["PATH"] = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    variables.pop("PYTHONPATH", None)  # ours
    with (
        running([str(command), "serve", str(folder), *where, *FLAGS], variables, log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None) as client,
    ):
        wait(process, client, log)
        try:
            yield client
        except httpx.TransportError as error:
            raise click.ClickException(f"vLLM has ended ({error}); {log}: {complaint(log)}") from None


@contextmanager
def running(command: list[str], variables: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program and its children as long as this lasts, and no longer, even where SIGTERM or SIGKILL ends us."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", GUARD, *command],
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


def wait(process: "subprocess.Popen[bytes]", client: "Client", log: Path) -> None:
    """Wait until the server answers.

    Raises:
        click.ClickException: it has ended, or takes too long.
    """
    import httpx

    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with suppress(httpx.TransportError):
            if client.get("/health").is_success:
                return
        time.sleep(1)
    raise click.ClickException(f"vLLM did not start; {log}: {complaint(log)}")


def complaint(log: Path) -> str:
    """Find the last error in the server's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if "Error" in line), "no error in it")


def free_port() -> int:
    """Give a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
