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

from stages.eval import guard
from tools.common.endpoints import HOME, LOGS, Endpoint, ServeState
from tools.serve import supervisord
from tools.serve.nginx import api_server, find_nginx, nginx_program, page_server
from tools.serve.params import ServeParams
from tools.serve.supervisord import Program
from tools.serve.vllm_command import find_vllm, vllm_arguments, vllm_variables
from tools.serve.webui import host_names, webui_program, webui_variables

if TYPE_CHECKING:
    from subprocess import Popen

SOCKET_LENGTH = 100  # bytes of a path that the kernel accepts, about
LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"
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
    alone = guard.can_leave_network()
    if not alone:
        click.echo(
            "note: this system does not let vLLM and the chat page run without a network; settings alone keep them "
            "from other machines (docs/serve.md)",
            err=True,
        )
    programs = list_programs(params, settings, state.endpoints, alone)
    run_until_up(lambda: supervisord.start(programs, params), state, settings["API_KEY"])


def list_programs(
    params: ServeParams, settings: dict[str, str], endpoints: list[Endpoint], alone: bool
) -> list[Program]:
    """List the programs to run: the vLLM servers of each model, the chat page, and nginx in front of them.

    Args:
        params: the settings.
        settings: the keys of .env.
        endpoints: the models.
        alone: whether vLLM and the chat page run without a network.

    Raises:
        click.ClickException: a program is not installed.
    """
    nginx = find_nginx()
    if not nginx:
        raise click.ClickException("nginx: not installed; run `apt install nginx`")
    programs, servers, doors = [], [], {}
    adapters = any(one.adapters for one in endpoints)
    variables, trusted = vllm_variables(params, settings, adapters), settings.get("TRUSTED_PROXY", "")
    # The chat page, and `make status`, ask by the loopback interface.
    here = [settings["BIND"]] if settings["BIND"] in (ANY, LOOPBACK) else [settings["BIND"], LOOPBACK]
    # Ray connects to other machines.
    split = params.vllm.get("distributed_executor_backend") == "ray"
    for one in endpoints:
        names = [one.name, *(f"{one.name}-{number}" for number in range(2, params.replicas + 1))]
        # Short: the system allows some hundred bytes for the whole path, and a port is one model's alone.
        sockets = {name: _socket(f"{one.port}-{number}") for number, name in enumerate(names, 1)}
        programs += [_vllm(params, one, name, path, variables, alone and not split) for name, path in sockets.items()]
        doors[int(one.port)] = _socket(str(one.port))
        listen = [*(f"{address}:{one.port}" for address in here), f"unix:{doors[int(one.port)]}"]
        servers.append(api_server(one.name, listen, [f"unix:{path}" for path in sockets.values()], trusted))
    page = _socket("open-webui")
    listen = [f"{address}:{settings['WEBUI_PORT']}" for address in here]
    servers.append(page_server(listen, f"unix:{page}", host_names(settings), params.page_plugins, trusted))
    models = [name for one in endpoints for name in one.names]
    addresses = [f"http://{LOOPBACK}:{one.port}/v1" for one in endpoints]
    own = webui_variables(settings, models, addresses, params.calls_tools, params.page_plugins)
    return [
        *programs,
        nginx_program(nginx, servers, list(doors.values())),
        webui_program(own, page, doors if alone and not params.page_plugins else None),
    ]


def _vllm(
    params: ServeParams, one: Endpoint, name: str, socket: Path, variables: dict[str, str], alone: bool
) -> Program:
    """Return the program of one server. It runs beside the model and its adapters, as clients see their paths."""
    folder = Path(one.folder)
    adapters = {alias: Path(path) for alias, path in one.adapters.items()}
    arguments = vllm_arguments(params, one.base or one.name, adapters, folder=folder)
    vllm = find_vllm()
    own = variables | {"PATH": f"{vllm.parent}{os.pathsep}{variables['PATH']}"}
    command = [str(vllm), "serve", folder.name, "--uds", str(socket), *arguments]
    return Program(name, command, own, (socket,), folder.parent.absolute(), alone)


def _socket(name: str) -> Path:
    path = (HOME / f"{name}.sock").absolute()
    if len(os.fsencode(path)) > SOCKET_LENGTH:
        raise click.ClickException(f"{path}: too long for a socket; move the checkout to a shorter path")
    return path


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
