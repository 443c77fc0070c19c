"""Viewer: the account of Dozzle, which shows the logs of containers to those who sign in."""

import subprocess

import click

from stages.common import files
from tools.serving.supervision import HOME

ACCOUNTS = HOME / "dozzle" / "users.yml"  # JSON is YAML, too
IMAGE = "lockstep-open-webui"  # has bcrypt, the one hash that Dozzle takes
HASH = "import bcrypt, sys; print(bcrypt.hashpw(sys.stdin.buffer.read(), bcrypt.gensalt()).decode())"


def write(email: str, password: str) -> None:
    """Write the one account, with the name and password of the page's.

    Raises:
        click.ClickException: no container can be run for it.
    """
    hashing = ["docker", "run", "--rm", "--interactive", "--network", "none", IMAGE, "python", "-c", HASH]
    done = subprocess.run(hashing, input=password, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{ACCOUNTS}: the password cannot be hashed: {done.stderr.strip()}")
    account = {"name": "admin", "password": done.stdout.strip(), "roles": "none"}  # looks on, and may do nothing
    files.write_json(ACCOUNTS, {"users": {email: account}})
    ACCOUNTS.chmod(0o600)
