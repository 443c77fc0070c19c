"""Compose: serving in containers, by docker/compose.yaml, which has one model; `overlay` adds the others."""

import copy
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from stages.common import files, settings
from tools.serving import engine, keys, viewer
from tools.serving.endpoint import Endpoint
from tools.serving.engine import ServeParams
from tools.serving.supervision import HOME
from tools.stop import PROJECT

FILE = Path("docker/compose.yaml")
OVERLAY = HOME / "compose.json"
LISTEN = ("/model", "--host", "0.0.0.0", "--port", "8000")  # in a network of its own


def up(params: ServeParams, endpoints: list[Endpoint]) -> None:
    """Start the containers on models, and wait until they are healthy; images that are missing are built before.

    Raises:
        click.ClickException: no Docker, an image that cannot be made, or a container that does not get healthy.
    """
    if has_gpu() and params.replicas > 1:
        raise click.ClickException(
            "serve.replicas: each container takes all GPUs; serve.vllm.tensor_parallel_size shares them out"
        )
    if not shutil.which("docker"):
        raise click.ClickException("docker: no such command; RUNTIME=local serves without containers")
    files.write_json(OVERLAY, overlay(params, endpoints, "vllm" if has_gpu() else "vllm-cpu"))
    start = ["docker", "compose", "-f", str(FILE), "-f", str(OVERLAY), "--env-file", str(keys.PATH)]
    start += ["--profile", "gpu" if has_gpu() else "cpu", "up", "--detach", "--wait", "--remove-orphans"]
    images = ["open-webui", "proxy", "trainer", *([] if has_gpu() else ["vllm"])]
    if subprocess.run(
        [sys.executable, "docker/image.py", *images], stdout=subprocess.DEVNULL, check=False
    ).returncode:
        raise click.ClickException("an image could not be made; its own message is above")
    secrets = keys.load()
    viewer.write(secrets["ADMIN_EMAIL"], secrets["ADMIN_PASSWORD"])
    try:
        if subprocess.run(start, env=environment() | variables(params, endpoints[0]), check=False).returncode:
            raise click.ClickException("the containers did not start; `make logs` says why")
    except BaseException:
        click.echo("ending what was started", err=True)
        subprocess.run(["docker", "compose", "--project-name", PROJECT, "stop"], check=False)
        raise


def overlay(params: ServeParams, endpoints: list[Endpoint], vllm: str) -> dict[str, Any]:
    """Give what docker/compose.yaml lacks: servers and doors of further models, folders of adapters, replicas.

    Args:
        params: the settings.
        endpoints: the models; the first is that of docker/compose.yaml.
        vllm: the service that runs vLLM.
    """
    known = settings.read_yaml(FILE)["services"]
    folders = [f"{folder}:{folder}:ro" for folder in endpoints[0].adapters.values()]
    services: dict[str, Any] = {vllm: {"scale": params.replicas, "volumes": folders}}
    doors = ["proxy"]
    for number, one in enumerate(endpoints[1:], 2):
        server, door = f"{vllm}-{number}", f"proxy-{number}"
        services[server] = copy.deepcopy(known[vllm]) | {
            "command": [word.replace("$", "$$") for word in (*LISTEN, *arguments(params, one))],
            "volumes": [f"{one.folder}:/model:ro", *folders],
            "networks": {"inside": {"aliases": [f"model-{number}"]}},
            "scale": params.replicas,
        }
        services[door] = copy.deepcopy(known["proxy"]) | {
            "ports": [f"${{BIND:-127.0.0.1}}:{one.address.rpartition(':')[2].removesuffix('/v1')}:8000"],
            "depends_on": {server: {"condition": "service_healthy"}},
        }
        services[door]["environment"]["SERVERS"] = f"server model-{number}:8000;"
        doors.append(door)
    services["open-webui"] = {
        "environment": {
            "OPENAI_API_BASE_URLS": ";".join(f"http://{door}:8000/v1" for door in doors),
            "OPENAI_API_KEYS": ";".join(["${API_KEY}"] * len(doors)),
        },
        "depends_on": {door: {"condition": "service_healthy"} for door in doors},
    }
    return {"services": services}


def arguments(params: ServeParams, one: Endpoint) -> list[str]:
    """Give what follows vLLM's address; adapters have the paths that they have outside."""
    return engine.arguments(params, one.name, {name: Path(folder) for name, folder in one.adapters.items()})


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
        "VLLM_ARGS": shlex.join(arguments(params, one)),
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
