"""Open WebUI: the command and the environment of the chat page, on which signed-in users see the served models."""

import json
from pathlib import Path

import click

from tools.common.endpoints import HOME
from tools.serve.supervisord import Program

DATA = HOME / "data"  # accounts and chats; they stay when the server ends
SETTINGS = Path("docker/webui.env")  # the same with containers and without


def webui_program(settings: dict[str, str]) -> Program:
    """Return the program that serves the chat page.

    Args:
        settings: the keys of .env.

    Raises:
        click.ClickException: Open WebUI is not installed.
    """
    command = (HOME / "webui" / "bin" / "open-webui").absolute()
    if not command.exists():
        raise click.ClickException(f"{command}: Open WebUI is not installed; `make serve` installs it")
    DATA.mkdir(exist_ok=True)
    address = ["--host", settings["BIND"], "--port", settings["WEBUI_PORT"]]
    return Program("open-webui", [str(command), "serve", *address])


def webui_variables(
    settings: dict[str, str], models: list[str], addresses: list[str], calls_tools: bool
) -> dict[str, str]:
    """Return Open WebUI's environment.

    Args:
        settings: the keys of .env.
        models: names of the served models; a new chat starts with the first.
        addresses: their endpoints.
        calls_tools: whether vLLM knows how the model calls tools; if not, it refuses the page's built-in tools.
    """
    from dotenv import dotenv_values

    port, public = settings["WEBUI_PORT"], settings.get("WEBUI_URL")
    constant = {name: value or "" for name, value in dotenv_values(SETTINGS, interpolate=False).items()}
    return {
        **constant,
        "DATA_DIR": str(DATA.absolute()),
        "DEFAULT_MODELS": models[0],
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": calls_tools}}),
        "OPENAI_API_BASE_URLS": ";".join(addresses),
        "OPENAI_API_KEYS": ";".join([settings["API_KEY"]] * len(addresses)),
        "WEBUI_ADMIN_EMAIL": settings["ADMIN_EMAIL"],
        "WEBUI_ADMIN_PASSWORD": settings["ADMIN_PASSWORD"],
        "WEBUI_SECRET_KEY": settings["WEBUI_SECRET_KEY"],
        # The addresses of the page itself; behind a public name, WEBUI_URL in .env adds that one.
        "CORS_ALLOW_ORIGIN": ";".join(filter(None, (f"http://127.0.0.1:{port}", f"http://localhost:{port}", public))),
        **({"WEBUI_URL": public} if public else {}),
    }
