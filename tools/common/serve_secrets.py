"""Serve secrets: the passwords, keys and ports of serving, from the file .env, which only its owner can read."""

import os
import secrets
from pathlib import Path

import click

PATH = Path(".env")
EXAMPLE = Path("docker/.env.example")
SECRETS = ("API_KEY", "WEBUI_SECRET_KEY", "ADMIN_EMAIL", "ADMIN_PASSWORD")


def load_secrets() -> dict[str, str]:
    """Read .env. The first call copies docker/.env.example there and fills in new secrets.

    A variable of the environment wins over the file, as with `docker compose`, except where it is a secret.

    Returns:
        Every key of docker/.env.example and .env with its value.

    Raises:
        click.ClickException: a port is not a number.
    """
    from dotenv import dotenv_values, set_key

    if not PATH.exists():
        _write(EXAMPLE.read_text(encoding="utf-8"))
    PATH.chmod(0o600)
    known = dotenv_values(PATH, interpolate=False)
    for name in SECRETS:
        if not known.get(name):
            set_key(PATH, name, secrets.token_urlsafe(24), quote_mode="never")
    known = dotenv_values(EXAMPLE, interpolate=False) | dotenv_values(PATH, interpolate=False)
    found = {name: (name not in SECRETS and os.environ.get(name)) or value or "" for name, value in known.items()}
    if wrong := [name for name, value in found.items() if name.endswith("_PORT") and not value.isdigit()]:
        raise click.ClickException(
            f"{PATH}: {wrong[0]}: must be a number (got {found[wrong[0]]!r}); correct it there or in the environment"
        )
    return found


def _write(text: str) -> None:
    building = PATH.with_name(".env.building")
    building.unlink(missing_ok=True)
    with os.fdopen(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    building.rename(PATH)
