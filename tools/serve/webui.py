"""Open WebUI: the command and the environment of the chat page, on which signed-in users see the served models."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import click

from stages.eval.server_variables import REFUSING_PROXY, SYSTEM, inherited
from tools.common.endpoints import HOME
from tools.serve.supervisord import Program
from tools.serve.vllm_command import user_key

DATA = HOME / "data"  # accounts and chats; they stay when the server ends
SERVER = Path("docker/webui_server.py")
SETTINGS = Path("docker/webui.env")  # the same with containers and without
# With params serve.page_plugins.
PLUGINS = {
    "ENABLE_DIRECT_CONNECTIONS": "true",
    "ENABLE_DIRECT_INTEGRATIONS": "true",
    "ENABLE_PLUGINS": "true",
    "SAFE_MODE": "false",  # which switches functions off at each start
    "WEB_FETCH_FILTER_LIST": "",
}


def webui_program(variables: dict[str, str], socket: Path, doors: dict[int, Path] | None) -> Program:
    """Return the program that serves the chat page, to nginx alone: on a socket.

    Args:
        variables: its environment.
        socket: the socket.
        doors: the ports of its own loopback interface, each with the socket of an endpoint; None: it stays in the
            network of this machine.

    Raises:
        click.ClickException: Open WebUI is not installed.
    """
    folder = (HOME / "webui" / "bin").absolute()
    if not (folder / "open-webui").exists():
        raise click.ClickException(f"{folder / 'open-webui'}: Open WebUI is not installed; `make serve` installs it")
    DATA.mkdir(exist_ok=True)
    command = [str(folder / "python"), "-P", str(SERVER.absolute()), "--uds", str(socket)]
    return Program("open-webui", command, variables, (socket,), alone=doors is not None, doors=doors or {})


def webui_variables(
    settings: dict[str, str], models: list[str], addresses: list[str], calls_tools: bool, plugins: bool
) -> dict[str, str]:
    """Return Open WebUI's environment.

    Args:
        settings: the keys of .env.
        models: names of the served models; a new chat starts with the first.
        addresses: their endpoints.
        calls_tools: whether vLLM knows how the model calls tools; if not, it refuses the page's built-in tools.
        plugins: whether the page's admin may add code and connections, and the page may reach other machines.
    """
    from dotenv import dotenv_values

    port, public = settings["WEBUI_PORT"], settings.get("WEBUI_URL")
    constant = {name: value or "" for name, value in dotenv_values(SETTINGS, interpolate=False).items()}
    return {
        **inherited(*SYSTEM),
        **constant,
        **(PLUGINS if plugins else REFUSING_PROXY),
        "DATA_DIR": str(DATA.absolute()),
        "DEFAULT_MODELS": models[0],
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": calls_tools}}),
        "ENABLE_FORWARD_USER_INFO_HEADERS": "true",  # docker/middleware/request_limits.py tells users apart
        "FORWARD_USER_INFO_HEADER_JWT_SECRET": user_key(settings["WEBUI_SECRET_KEY"]),
        "OPENAI_API_BASE_URLS": ";".join(addresses),
        "OPENAI_API_KEYS": ";".join([settings["API_KEY"]] * len(addresses)),
        "WEBUI_ADMIN_EMAIL": settings["ADMIN_EMAIL"],
        "WEBUI_ADMIN_PASSWORD": settings["ADMIN_PASSWORD"],
        "WEBUI_SECRET_KEY": settings["WEBUI_SECRET_KEY"],
        # The addresses of the page itself; behind a public name, WEBUI_URL in .env adds that one.
        "CORS_ALLOW_ORIGIN": ";".join(filter(None, (f"http://127.0.0.1:{port}", f"http://localhost:{port}", public))),
        "WEBUI_SESSION_COOKIE_SECURE": cookies_are_secure(settings),
        **({"WEBUI_URL": public} if public else {}),
    }


def cookies_are_secure(settings: dict[str, str]) -> str:
    """Tell whether browsers may send the page's cookies only encrypted: where users open it by https."""
    return "true" if settings.get("WEBUI_URL", "").startswith("https://") else "false"


def host_names(settings: dict[str, str]) -> str:
    """Return the names by which browsers may call the page, with spaces, as nginx reads them."""
    public = urlsplit(settings.get("WEBUI_URL") or "").hostname
    own = (
        "127.0.0.1",
        "localhost",
        settings["BIND"],
        public,
        *settings.get("WEBUI_HOSTS", "").replace(",", " ").split(),
    )
    return " ".join(dict.fromkeys(name for name in own if name and name != "0.0.0.0"))
