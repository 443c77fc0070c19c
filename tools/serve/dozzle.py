"""Dozzle: the account of the page that shows the containers' logs in a browser."""

import subprocess

import click

from stages.common import files
from tools.common.endpoints import HOME

ACCOUNTS = HOME / "dozzle" / "users.yml"  # the file holds JSON, which is YAML too
IMAGE = "lockstep-open-webui"  # has bcrypt, the only hash that Dozzle accepts
HASH = "import bcrypt, sys; print(bcrypt.hashpw(sys.stdin.buffer.read(), bcrypt.gensalt()).decode())"


def write_account(email: str, password: str) -> None:
    """Write Dozzle's one account, with the email and password of the chat page's admin.

    Raises:
        click.ClickException: the container that hashes the password does not run.
    """
    hashing = ["docker", "run", "--rm", "--interactive", "--network", "none", IMAGE, "python", "-c", HASH]
    done = subprocess.run(hashing, input=password, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(
            f"{ACCOUNTS}: the password was not hashed: {done.stderr.strip()}; `docker version` shows whether the "
            "engine answers"
        )
    account = {"name": "admin", "password": done.stdout.strip(), "roles": "none"}  # may read, and change nothing
    files.write_json(ACCOUNTS, {"users": {email: account}})
    ACCOUNTS.chmod(0o600)
