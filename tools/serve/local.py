"""Local: serve without containers. supervisord runs vLLM, nginx and Open WebUI from the environments in .serve."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.common.endpoints import HOME, LOGS, Endpoint, ServeState
from tools.serve import supervisord
from tools.serve.nginx import Upstream, find_nginx, nginx_program, webui_block
from tools.serve.params import ServeParams
from tools.serve.supervisord import Program
from tools.serve.vllm_command import (
    MIDDLEWARE,
    find_vllm,
    request_limits,
    user_key,
    vllm_arguments,
    vllm_variables,
)
from tools.serve.webui import webui_program, webui_variables

if TYPE_CHECKING:
    from subprocess import Popen

WEBUI_SERVER = Path("docker/webui_server.py")
SOCKET_LENGTH = 100  # bytes of a path that the kernel accepts, about
START_SECONDS = 1800.0  # large weights on a slow disk


def require_free_ports(bind: str, ports: list[tuple[str, int]]) -> None:
    """Make sure that no other program listens on the ports.

    Args:
        bind: the address to listen on.
        ports: each with the key of .env that sets it.

    Raises:
        click.ClickException: a port is taken, or this machine does not have the address.
    """
    for key, port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of ended servers are free
            try:
                probe.bind((bind, port))
            except OSError as error:
                raise click.ClickException(
                    f"{bind}:{port}: cannot listen there ({error.strerror}); `ss -ltnp sport = :{port}` shows which "
                    f"program does; or set {key} in .env"
                ) from None


def up(params: ServeParams, settings: dict[str, str], state: ServeState, has_gpu: bool) -> None:
    """Start all programs and wait until they answer; end them all if that fails or is interrupted.

    Args:
        params: the settings.
        settings: the keys of .env.
        state: the endpoints and the address of the chat page.
        has_gpu: whether this machine has an NVIDIA GPU.

    Raises:
        click.ClickException: something is not installed, a program keeps failing, or the start takes too long.
    """
    if has_gpu and "VLLM_VENV" not in os.environ:
        click.echo("note: .serve/vllm is vLLM's CPU build; set VLLM_VENV to an environment for the GPU", err=True)
    programs = list_programs(params, settings, state.endpoints)
    variables = _variables(params, settings, state.endpoints)
    run_until_up(lambda: supervisord.start(programs, variables, params), state, settings["API_KEY"])


def list_programs(params: ServeParams, settings: dict[str, str], endpoints: list[Endpoint]) -> list[Program]:
    """List the programs to run: the vLLM servers of each model, nginx if it is installed, and the chat page.

    Raises:
        click.ClickException: a program is not installed, or a setting needs nginx.
    """
    nginx, programs, upstreams = find_nginx(), [], []
    if not nginx and (params.replicas > 1 or settings["BIND"] != "127.0.0.1"):
        setting = "serve.replicas" if params.replicas > 1 else "BIND in .env"
        raise click.ClickException(f"{setting}: needs nginx, which is not installed; run `apt install nginx`")
    if not nginx:
        click.echo(
            "note: nginx is not installed, so vLLM answers paths that it should not, to this machine only; see "
            "docs/serve.md",
            err=True,
        )
    trusted = settings.get("TRUSTED_PROXY", "")
    for one in endpoints:
        if not nginx:
            programs.append(_vllm(params, one, one.name, ["--host", settings["BIND"], "--port", one.port]))
            continue
        names = [one.name, *(f"{one.name}-{number}" for number in range(2, params.replicas + 1))]
        sockets = {name: _socket(name) for name in names}
        programs += [_vllm(params, one, name, ["--uds", str(path)], path) for name, path in sockets.items()]
        listen = f"{settings['BIND']}:{one.port}"
        upstreams.append(Upstream(one.name, listen, [f"unix:{path}" for path in sockets.values()], trusted))
    page = webui_program(settings)
    if nginx:
        path = _socket(page.name)
        python = Path(page.command[0]).with_name("python")
        command = [str(python), "-P", str(WEBUI_SERVER.absolute()), "--uds", str(path)]
        page = page._replace(command=command, socket=path)
        listen = f"{settings['BIND']}:{settings['WEBUI_PORT']}"
        programs.append(nginx_program(nginx, upstreams, webui_block(listen, path, trusted)))
    return [*programs, page]


def _vllm(params: ServeParams, one: Endpoint, name: str, address: list[str], path: Path | None = None) -> Program:
    adapters = {alias: Path(folder) for alias, folder in one.adapters.items()}
    arguments = vllm_arguments(params, one.name, adapters)
    return Program(name, [str(find_vllm()), "serve", one.folder, *address, *arguments], path)


def _socket(name: str) -> Path:
    path = (HOME / f"{name}.sock").absolute()
    if len(os.fsencode(path)) > SOCKET_LENGTH:
        raise click.ClickException(f"{path}: too long for a socket; move the checkout to a shorter path")
    return path


def _variables(params: ServeParams, settings: dict[str, str], endpoints: list[Endpoint]) -> dict[str, str]:
    models = [name for one in endpoints for name in (one.name, *one.adapters)]
    webui = webui_variables(settings, models, [one.address for one in endpoints], params.calls_tools)
    path = f"{find_vllm().parent}{os.pathsep}{os.environ['PATH']}"
    secret = settings["WEBUI_SECRET_KEY"]
    asked = request_limits(params, secret, proxied=find_nginx() is not None)
    limits = {"REQUEST_LIMITS": asked, "PYTHONPATH": str(MIDDLEWARE.absolute())}
    users = {"ENABLE_FORWARD_USER_INFO_HEADERS": "true", "FORWARD_USER_INFO_HEADER_JWT_SECRET": user_key(secret)}
    return vllm_variables(params, settings["API_KEY"]) | limits | webui | users | {"PATH": path}


def run_until_up(start: Callable[[], "Popen[bytes]"], state: ServeState, key: str) -> None:
    """Start supervisord and wait until every address answers; end it if that fails or is interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    process = start()
    try:
        _wait(process, state, key)
    except BaseException:
        click.echo("stopping what was started", err=True)
        supervisord.end(process)
        raise


def _wait(process: "Popen[bytes]", state: ServeState, key: str) -> None:
    """Wait until every address answers, and report each one that does."""
    click.echo(f"starting; the logs are in {LOGS}")
    missing: dict[str, Callable[[], bool]] = {one.name: partial(one.is_up, key) for one in state.endpoints}
    missing["chat page"] = state.webui_is_up
    begin = time.monotonic()
    while missing:
        seconds = time.monotonic() - begin
        if process.poll() is not None:
            raise click.ClickException(f"a program failed again and again; {supervisord.find_error()}")
        if seconds > START_SECONDS:
            raise click.ClickException(f"{', '.join(missing)}: no answer after {seconds:.0f} s; see {LOGS}")
        for name in [name for name, is_up in missing.items() if is_up()]:
            click.echo(f"{name} is up after {seconds:.0f} s")
            del missing[name]
        if missing and sys.stdout.isatty():
            click.echo(f"waiting for {', '.join(missing)}: {seconds:.0f} s\r", nl=False)
        time.sleep(1)
