"""Compose: serving in containers, by docker/compose.yaml."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from tools.serving import engine, keys, viewer
from tools.serving.endpoint import Endpoint
from tools.serving.engine import ServeParams
from tools.stop import PROJECT

FILE = Path("docker/compose.yaml")


def up(params: ServeParams, one: Endpoint) -> None:
    """Start the containers on a model, and wait until they are healthy; images that are missing are built before.

    Raises:
        click.ClickException: no Docker, an image that cannot be made, or a container that does not get healthy.
    """
    if not shutil.which("docker"):
        raise click.ClickException("docker: no such command; RUNTIME=local serves without containers")
    profile = "gpu" if has_gpu() else "cpu"
    start = ["docker", "compose", "-f", str(FILE), "--env-file", str(keys.PATH), "--profile", profile]
    start += ["up", "--detach", "--wait"]
    images = ["open-webui", "proxy", "trainer", *([] if has_gpu() else ["vllm"])]
    if subprocess.run(
        [sys.executable, "docker/image.py", *images], stdout=subprocess.DEVNULL, check=False
    ).returncode:
        raise click.ClickException("an image could not be made; its own message is above")
    secrets = keys.load()
    viewer.write(secrets["ADMIN_EMAIL"], secrets["ADMIN_PASSWORD"])
    try:
        if subprocess.run(start, env=environment() | variables(params, one), check=False).returncode:
            raise click.ClickException("the containers did not start; `make logs` says why")
    except BaseException:
        click.echo("ending what was started", err=True)
        subprocess.run(["docker", "compose", "--project-name", PROJECT, "stop"], check=False)
        raise


def variables(params: ServeParams, one: Endpoint) -> dict[str, str]:
    """Give what docker/compose.yaml wants to know of this start."""
    socket = Path("/var/run/docker.sock")
    return {
        "BUILTIN_TOOLS": "true" if params.vllm.get("enable_auto_tool_choice") else "false",
        "KV_CACHE_GIB": str(params.kv_cache_gib),
        "MODEL_FOLDER": one.folder,
        "RUN_AS": f"{os.getuid()}:{os.getgid()}",
        "SERVED_NAME": one.name,
        "TORCHDYNAMO_DISABLE": engine.eager(params),
        "VLLM_ARGS": shlex.join(engine.arguments(params, one.name, {})),
        **engine.spared(params),
        **({"DOCKER_GID": str(socket.stat().st_gid)} if socket.exists() else {}),
    }


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    return shutil.which("nvidia-smi") is not None


def logs(lines: int, follow: bool) -> list[str]:
    """Give the command line that shows the containers' logs; by the project's name, as no variable is known then."""
    shown = ["--tail", str(lines), *(["--follow"] if follow else [])]
    return ["docker", "compose", "--project-name", PROJECT, "logs", *shown]


def environment() -> dict[str, str]:
    """Give our environment without names of secrets, as `docker compose` takes those before .env's."""
    return {name: value for name, value in os.environ.items() if name not in keys.SECRETS}
