"""Compose: serve in containers. docker/compose.yaml serves one model; an overlay adds the others."""

import copy
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.params import read_yaml
from tools.common.endpoints import HOME, Endpoint
from tools.common.serve_secrets import PATH, SECRETS
from tools.serve.dozzle import write_account
from tools.serve.params import ServeParams
from tools.serve.vllm_command import dynamo_disabled, leave_a_core, request_limits, user_key, vllm_arguments
from tools.serve.webui import PLUGINS, cookies_are_secure, host_names
from tools.stop import PROJECT

FILE = Path("docker/compose.yaml")
OVERLAY = HOME / "compose.json"
ADAPTERS = "/adapters/"  # their folders in a container
LISTEN = ("/model", "--host", "0.0.0.0", "--port", "8000")  # in a network of its own


def up(params: ServeParams, settings: dict[str, str], endpoints: list[Endpoint], has_gpu: bool) -> None:
    """Start the containers and wait until they are healthy; missing images are built first.

    Args:
        params: the settings.
        settings: the keys of .env.
        endpoints: the models; the first is the one of docker/compose.yaml.
        has_gpu: whether this machine has an NVIDIA GPU.

    Raises:
        click.ClickException: Docker is missing, an image cannot be built, or a container does not get healthy.
    """
    if has_gpu and params.replicas > 1:
        raise click.ClickException(
            "serve.replicas: each container takes all GPUs; set it to 1, and share the GPUs with "
            "serve.vllm.tensor_parallel_size"
        )
    if not shutil.which("docker"):
        raise click.ClickException("docker: command not found; `make serve RUNTIME=local` serves without containers")
    files.write_json(OVERLAY, overlay(params, endpoints, "vllm" if has_gpu else "vllm-cpu"))
    start = ["docker", "compose", "-f", str(FILE), "-f", str(OVERLAY), "--env-file", str(PATH)]
    start += ["--profile", "gpu" if has_gpu else "cpu", "up", "--detach", "--wait", "--remove-orphans"]
    build = [sys.executable, "docker/image.py", "open-webui", "proxy", "trainer", *([] if has_gpu else ["vllm"])]
    if subprocess.run(build, stdout=subprocess.DEVNULL, check=False).returncode:
        raise click.ClickException("an image was not built; its error is above")
    write_account(settings["ADMIN_EMAIL"], settings["ADMIN_PASSWORD"])
    # `docker compose` prefers the environment to .env: secrets must come from the file.
    ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
    try:
        if subprocess.run(start, env=ours | variables(params, settings, endpoints), check=False).returncode:
            raise click.ClickException("the containers did not start; run `make logs` to see why")
    except BaseException:
        click.echo("stopping what was started", err=True)
        subprocess.run(["docker", "compose", "--project-name", PROJECT, "stop"], check=False)
        raise


def overlay(params: ServeParams, endpoints: list[Endpoint], vllm: str) -> dict[str, Any]:
    """Return what docker/compose.yaml lacks: vLLM and nginx for further models, folders of adapters, replicas.

    Args:
        params: the settings.
        endpoints: the models; the first is the one of docker/compose.yaml.
        vllm: the service that runs vLLM.
    """
    known = read_yaml(FILE)["services"]
    services: dict[str, Any] = {vllm: {"scale": params.replicas, "volumes": _adapters(endpoints[0])}}
    proxies = ["proxy"]
    for number, one in enumerate(endpoints[1:], 2):
        server, proxy = f"{vllm}-{number}", f"proxy-{number}"
        services[server] = copy.deepcopy(known[vllm]) | {
            "command": [word.replace("$", "$$") for word in (*LISTEN, *_arguments(params, one))],
            "volumes": [f"{one.folder}:/model:ro", *known[vllm]["volumes"][1:], *_adapters(one)],
            "networks": {"inside": {"aliases": [f"model-{number}"]}},
            "scale": params.replicas,
        }
        services[proxy] = copy.deepcopy(known["proxy"]) | {
            "ports": [f"${{BIND:-127.0.0.1}}:{one.port}:8000"],
            "depends_on": {server: {"condition": "service_healthy"}},
        }
        services[proxy]["environment"]["SERVERS"] = f"server model-{number}:8000;"
        proxies.append(proxy)
    services["open-webui"] = {
        "environment": {
            **(PLUGINS if params.page_plugins else {}),
            "OPENAI_API_BASE_URLS": ";".join(f"http://{proxy}:8000/v1" for proxy in proxies),
            "OPENAI_API_KEYS": ";".join(["${API_KEY}"] * len(proxies)),
        },
        "depends_on": {proxy: {"condition": "service_healthy"} for proxy in proxies},
        **({"networks": ["inside", "outside"]} if params.page_plugins else {}),
    }
    networks: dict[str, Any] = {"networks": {"outside": {}}} if params.page_plugins else {}
    return {"services": services} | networks


def variables(params: ServeParams, settings: dict[str, str], endpoints: list[Endpoint]) -> dict[str, str]:
    """Return the variables that docker/compose.yaml uses, for this start.

    Args:
        params: the settings.
        settings: the keys of .env.
        endpoints: the models; the first is the one of docker/compose.yaml.
    """
    one, adapters = endpoints[0], any(other.adapters for other in endpoints)
    socket = Path("/var/run/docker.sock")
    return {
        "BUILTIN_TOOLS": "true" if params.calls_tools else "false",
        "COOKIES_SECURE": cookies_are_secure(settings),
        "KV_CACHE_GIB": str(params.kv_cache_gib),
        "MODEL_FOLDER": one.folder,
        "PAGE_HOSTS": host_names(settings),
        "PAGE_OPEN": "all" if params.page_plugins else "chat",
        "REQUEST_LIMITS": request_limits(params, settings["WEBUI_SECRET_KEY"], adapters),
        "RUN_AS": f"{os.getuid()}:{os.getgid()}",
        "SERVED_NAME": one.name,
        "TORCHDYNAMO_DISABLE": dynamo_disabled(params),
        "USER_KEY": user_key(settings["WEBUI_SECRET_KEY"]),
        "VLLM_ARGS": shlex.join(_arguments(params, one)),
        **leave_a_core(params),
        **({"DOCKER_GID": str(socket.stat().st_gid)} if socket.exists() else {}),
    }


def _adapters(one: Endpoint) -> list[str]:
    """Return where the folders of a model's adapters are in its container."""
    return [f"{folder}:{ADAPTERS}{name}:ro" for name, folder in one.adapters.items()]


def _arguments(params: ServeParams, one: Endpoint) -> list[str]:
    """Return the arguments after vLLM's address."""
    adapters = {name: Path(folder) for name, folder in one.adapters.items()}
    return vllm_arguments(params, one.base or one.name, adapters, ADAPTERS, Path(one.folder))
