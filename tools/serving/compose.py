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

FILE = Path("docker/compose.yaml")


def up(params: ServeParams, one: Endpoint) -> None:
    """Start the containers on a model, and wait until they are healthy; images that are missing are built before.

    Raises:
        click.ClickException: no Docker, an image that cannot be made, or a container that does not get healthy.
    """
    start = command("up", "--detach", "--wait")
    images = ["open-webui", "proxy", "trainer", *([] if has_gpu() else ["vllm"])]
    if subprocess.run(
        [sys.executable, "docker/image.py", *images], stdout=subprocess.DEVNULL, check=False
    ).returncode:
        raise click.ClickException("an image could not be made; its own message is above")
    secrets = keys.load()
    viewer.write(secrets["ADMIN_EMAIL"], secrets["ADMIN_PASSWORD"])
    if subprocess.run(start, env=environment() | variables(params, one), check=False).returncode:
        raise click.ClickException(f"the containers did not start; `{shlex.join(command('logs'))}` says why")


def variables(params: ServeParams, one: Endpoint) -> dict[str, str]:
    """Give what docker/compose.yaml wants to know of this start."""
    socket = Path("/var/run/docker.sock")
    return {
        "BUILTIN_TOOLS": "true" if params.vllm.get("enable_auto_tool_choice") else "false",
        "KV_CACHE_GIB": str(params.kv_cache_gib),
        "MODEL_FOLDER": one.folder,
        "RUN_AS": f"{os.getuid()}:{os.getgid()}",
        "SERVED_NAME": one.name,
        "VLLM_ARGS": shlex.join(engine.arguments(params, one.name, {})),
        **({"DOCKER_GID": str(socket.stat().st_gid)} if socket.exists() else {}),
    }


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    return shutil.which("nvidia-smi") is not None


def command(*words: str) -> list[str]:
    """Give the command line of `docker compose` on this project.

    Raises:
        click.ClickException: no Docker.
    """
    if not shutil.which("docker"):
        raise click.ClickException("docker: no such command; RUNTIME=local serves without containers")
    profile = "gpu" if has_gpu() else "cpu"
    return ["docker", "compose", "-f", str(FILE), "--env-file", str(keys.PATH), "--profile", profile, *words]


def environment() -> dict[str, str]:
    """Give our environment without names of secrets, as `docker compose` takes those before .env's."""
    return {name: value for name, value in os.environ.items() if name not in keys.SECRETS}
