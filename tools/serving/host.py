"""Host: serving without containers, from environments in .serve, with every part under supervision."""

import os
import shutil
from pathlib import Path

import click

from tools.serving import door, engine, page
from tools.serving.endpoint import Endpoint
from tools.serving.engine import ServeParams
from tools.serving.supervision import HOME, Part

SOCKET_LENGTH = 100  # what the kernel takes of a path, about


def parts(params: ServeParams, keys: dict[str, str], endpoints: list[Endpoint]) -> list[Part]:
    """Give everything that runs: the servers of each model, the door before them where there is nginx, and the page.

    Raises:
        click.ClickException: something is missing, or a setting needs nginx.
    """
    nginx, found, ways = door.nginx(), [], []
    if not nginx and (params.replicas > 1 or keys["BIND"] != "127.0.0.1"):
        wish = "serve.replicas" if params.replicas > 1 else "BIND in .env"
        raise click.ClickException(f"{wish}: needs nginx, and there is none; such as `apt install nginx`")
    if not nginx:
        click.echo(
            "note: no nginx, so vLLM answers more than it should, to this machine alone: docs/serve.md", err=True
        )
    if shutil.which("nvidia-smi") and "VLLM_VENV" not in os.environ:
        click.echo("note: .serve/vllm is vLLM's CPU build; VLLM_VENV names an environment for the GPU", err=True)
    for one in endpoints:
        port = one.address.rpartition(":")[2].removesuffix("/v1")
        if not nginx:
            found.append(_engine(params, one, one.name, ["--host", keys["BIND"], "--port", port]))
            continue
        names = [one.name, *(f"{one.name}-{number}" for number in range(2, params.replicas + 1))]
        sockets = {name: _socket(name) for name in names}
        found += [_engine(params, one, name, ["--uds", str(path)], path) for name, path in sockets.items()]
        ways.append(door.Way(one.name, f"{keys['BIND']}:{port}", [f"unix:{path}" for path in sockets.values()]))
    if nginx:
        found.append(door.part(nginx, ways))
    return [*found, _page(keys)]


def variables(params: ServeParams, keys: dict[str, str], endpoints: list[Endpoint]) -> dict[str, str]:
    """Give the environment of the parts."""
    models = [name for one in endpoints for name in (one.name, *one.adapters)]
    tools = bool(params.vllm.get("enable_auto_tool_choice"))
    path = f"{engine.command().parent}{os.pathsep}{os.environ['PATH']}"
    settings = page.variables(keys, models, [one.address for one in endpoints], tools)
    return engine.variables(params, keys["API_KEY"]) | settings | {"PATH": path}


def _engine(params: ServeParams, one: Endpoint, name: str, where: list[str], socket: Path | None = None) -> Part:
    adapters = {alias: Path(folder) for alias, folder in one.adapters.items()}
    rest = engine.arguments(params, one.name, adapters)
    return Part(name, [str(engine.command()), "serve", one.folder, *where, *rest], socket)


def _page(keys: dict[str, str]) -> Part:
    command = (HOME / "webui" / "bin" / "open-webui").absolute()
    if not command.exists():
        raise click.ClickException(f"{command}: no Open WebUI; `make serve` installs it")
    page.DATA.mkdir(exist_ok=True)
    return Part("page", [str(command), "serve", "--host", keys["BIND"], "--port", keys["WEBUI_PORT"]])


def _socket(name: str) -> Path:
    path = (HOME / f"{name}.sock").absolute()
    if len(os.fsencode(path)) > SOCKET_LENGTH:
        raise click.ClickException(f"{path}: too long for a socket; move the checkout to a shorter path")
    return path
