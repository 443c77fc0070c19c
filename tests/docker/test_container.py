"""Stages in containers: their rights, their output, and signals."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import has_gpu
from processes import until

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


def facts(checkout: Path, stage: str) -> dict[str, Any]:
    latest = (checkout / "logs" / "latest.txt").read_text(encoding="utf-8").strip()
    return json.loads((checkout / "logs" / latest / stage / "runtime.json").read_text(encoding="utf-8"))


def test_output_exit_code_and_figures_are_recorded(
    run: Run, checkout: Path, containers: Callable[[], list[str]]
) -> None:
    code = "import sys; block = bytearray(200_000_000); print(len(block)); sys.exit(7)"
    done = run("python", "-c", code)
    assert (done.returncode, done.stdout) == (7, "200000000\n")
    assert done.stderr == "docker/run: docker: RUNTIME in the environment\n"
    found = facts(checkout, "train")
    assert (found["exit_code"], found["runtime"], found["image"][:17]) == (7, "docker", "lockstep-trainer:")
    assert 200_000_000 < found["peak_memory_bytes"] < 400_000_000
    assert not list(checkout.glob("logs/*/train/usage.json"))
    assert containers() == []


def test_an_unknown_program_is_one_line(run: Run) -> None:
    done = run("no-such-program")
    assert done.returncode == 1
    assert done.stdout == "docker/run: no-such-program: No such file or directory\n"


def test_it_has_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            "import os, socket\n"
            "print(sorted(os.listdir('/sys/class/net')))\n"
            f"for host, port in (('127.0.0.1', {port}), ('192.0.2.1', 443)):\n"
            "    try: socket.create_connection((host, port), timeout=5); print('connected')\n"
            "    except OSError as error: print(error.strerror)\n"
            "try: socket.getaddrinfo('example.org', 443)\n"
            "except OSError as error: print('unknown')\n"
        )
        assert run("python", "-c", code).stdout.splitlines() == [
            "['lo']",
            "Connection refused",
            "Network is unreachable",
            "unknown",
        ]
        # base may download a model, so it reaches what this machine reaches.
        one = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5); print('connected')"
        assert run("python", "-c", one, stage="base").stdout == "connected\n"


def test_it_writes_only_to_the_checkout_and_to_tmp(run: Run, checkout: Path) -> None:
    code = (
        "import pathlib\n"
        "for folder in ('/', '/etc', '/opt/lockstep', '/usr/bin', '/tmp', '/dev/shm', '.'):\n"
        "    try: (pathlib.Path(folder) / 'written').touch(); print(folder, 'yes')\n"
        "    except OSError as error: print(folder, error.strerror)\n"
    )
    done = run("python", "-c", code)
    assert done.stdout.splitlines() == [
        "/ Read-only file system",
        "/etc Read-only file system",
        "/opt/lockstep Read-only file system",
        "/usr/bin Read-only file system",
        "/tmp yes",
        "/dev/shm yes",
        ". yes",
    ]
    owner = (checkout / "written").stat()
    assert (owner.st_uid, owner.st_gid) == (os.getuid(), os.getgid())


@pytest.fixture
def open_folder(checkout: Path) -> Iterator[Path]:
    """The checkout with another owner, in a folder that this user may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkout")
        shutil.copytree(checkout, folder)
        for path in (Path(name), folder, *folder.rglob("*")):
            os.chown(path, 12345, 12345)
        yield folder


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root may become another user: run `sudo .ci/engine make test ARGS=tests/docker`"
)
def test_files_of_another_user_keep_their_owner(open_folder: Path, environment: dict[str, str]) -> None:
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    command = ["docker/run", "--name", "train", "sh", "-c", "id -u; id -g; mkdir made; touch made/file"]
    done = subprocess.run(
        command,
        cwd=open_folder,
        env=environment | {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(open_folder)},
        capture_output=True,
        text=True,
        user=12345,
        group=12345,
        extra_groups=[socket.stat().st_gid],
    )
    assert done.stdout == "12345\n12345\n", done.stderr
    assert {path.stat().st_uid for path in open_folder.rglob("*")} == {12345}
    subprocess.run(["rm", "-r", open_folder / "made"], user=12345, group=12345, extra_groups=[], check=True)


def test_it_has_no_capability_and_cannot_get_one(run: Run) -> None:
    shown = run("cat", "/proc/self/status").stdout
    found = dict(re.findall(r"^(Cap\w+|NoNewPrivs|Uid):\t(\w+)", shown, re.MULTILINE))
    assert {value for key, value in found.items() if key.startswith("Cap")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Uid"]) == ("1", str(os.getuid()))


def test_shared_memory_and_the_memory_limit_are_settings(run: Run) -> None:
    code = "import os; found = os.statvfs('/dev/shm'); print(found.f_blocks * found.f_frsize)"
    assert run("python", "-c", code).stdout == f"{8 << 30}\n"
    assert run("python", "-c", code, SHM="64m").stdout == f"{64 << 20}\n"
    hungry = run("python", "-c", "block = b'x' * 500_000_000", MEMORY="200m")
    assert hungry.returncode == 128 + signal.SIGKILL


def test_gpus_are_requested(run: Run) -> None:
    """An engine without GPUs reports that GPUs were requested."""
    if has_gpu():
        assert "NVIDIA" in run("nvidia-smi").stdout
        return
    for wanted in ("all", "device=0,1"):
        done = run("true", GPUS=wanted)
        assert done.returncode == 125
        assert "could not select device driver" in done.stdout
        assert "gpu" in done.stdout
    assert run("true", GPUS="none").returncode == 0


def test_tools_run_in_containers_too(run: Run, checkout: Path, environment: dict[str, str]) -> None:
    shutil.copytree(Path(__file__).parents[2] / "tools", checkout / "tools")
    command = ["docker/run", "--no-log", "python", "-m", "tools.runtime", "--json"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    shown = json.loads(done.stdout)
    assert shown["runtime"] == {"value": "docker", "reason": "RUNTIME in the environment"}
    assert shown["python"]["value"] == "/opt/lockstep/bin/python"
    assert (shown["cpu_kernels"]["value"], shown["threads"]["value"]) == ("AVX2", 2)


def test_only_base_gets_secrets_and_the_hub(run: Run, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    cache.mkdir()
    given = {
        "HF_TOKEN": "hf_secret",
        "HF_ENDPOINT": "https://hub.example",
        "HF_HOME": str(cache),
        "HTTPS_PROXY": "http://proxy.example:3128",
        "WANDB_API_KEY": "secret",
        "WANDB_PROJECT": "mine",
    }
    code = f"import json, os; print(json.dumps({{key: os.environ.get(key) for key in {sorted(given)}}}))"
    seen = json.loads(run("python", "-c", code, stage="base", **given).stdout)
    assert seen == given | {"WANDB_API_KEY": None}
    seen = json.loads(run("python", "-c", code, stage="train", **given).stdout)
    assert seen.pop("HF_HOME").endswith("/.scratch/huggingface")
    assert seen == {key: None for key in given if key != "HF_HOME"} | {"WANDB_PROJECT": "mine"}
    touch = f"import pathlib; pathlib.Path({str(cache)!r}, 'file').touch()"
    assert run("python", "-c", touch, stage="train").returncode == 1
    assert run("python", "-c", touch, stage="base", **given).returncode == 0
    assert (cache / "file").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_reaches_the_stage_once(
    number: signal.Signals, checkout: Path, environment: dict[str, str], containers: Callable[[], list[str]]
) -> None:
    code = (
        "import signal, sys, time\n"
        f"signal.signal({number.value}, lambda *_: print('received', flush=True))\n"
        "print('ready', flush=True)\n"
        "time.sleep(3); sys.exit(5)"
    )
    command = [str(checkout / "docker" / "run"), "--name", "train", "python", "-c", code]
    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    assert containers() == [f"lockstep-train-{process.pid}"]
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "received\n"
    assert process.returncode == 5


def test_on_a_terminal_it_has_one_and_ctrl_c_reaches_it_once(checkout: Path, environment: dict[str, str]) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('received', flush=True))\n"
        "print(sys.stdout.isatty(), flush=True)\n"
        "time.sleep(10); sys.exit(5)"
    )
    command = [str(checkout / "docker" / "run"), "--name", "train", "python", "-c", code]
    child, terminal = pty.fork()
    if not child:
        os.chdir(checkout)
        os.execve(command[0], command, environment)
    shown = b""
    while b"True" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    try:
        while chunk := os.read(terminal, 1000):
            shown += chunk
    except OSError:  # closed
        pass
    assert shown.count(b"received") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


def test_a_signal_at_any_moment_of_the_start_leaves_no_container(
    checkout: Path, environment: dict[str, str], containers: Callable[[], list[str]]
) -> None:
    command = [str(checkout / "docker" / "run"), "--name", "train", "sleep", "60"]
    for wait in (0.1, 0.2, 0.3, 0.4, 0.5):
        process = subprocess.Popen(command, cwd=checkout, env=environment)
        time.sleep(wait)
        process.terminate()
        assert process.wait(timeout=30) != 0
    time.sleep(1)
    assert containers() == []


def test_no_container_outlives_the_launcher(
    checkout: Path, environment: dict[str, str], containers: Callable[[], list[str]]
) -> None:
    command = [str(checkout / "docker" / "run"), "--name", "train", "sleep", "600"]
    process = subprocess.Popen(command, cwd=checkout, env=environment)
    until(lambda: list(checkout.glob("logs/*/train/.ready")))  # an earlier kill leaves one behind: docs/containers.md
    process.kill()
    process.wait()
    until(lambda: not containers())
