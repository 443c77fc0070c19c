"""Print what is served from this checkout, at which address, and whether it answers; exit 1 if something does not.

--secrets also prints the API key and the account of the chat page. Run it with `make status`, or with
`python -m tools.status`.
"""

import sys

import click

from tools.common.endpoints import require_state
from tools.common.serve_secrets import load_secrets


@click.command(help=__doc__)
@click.option("--secrets", is_flag=True, help="Also print the API key and the account of the chat page.")
def main(secrets: bool) -> None:
    state, settings = require_state(), load_secrets()
    rows = [(name, one.address, one.is_up(settings["API_KEY"])) for one in state.endpoints for name in one.names]
    rows.append(("chat page", state.webui, state.webui_is_up()))
    for name, address, is_up in rows:
        click.echo(f"{name:32} {address:28} {'healthy' if is_up else 'does not answer'}")
    if secrets:
        for name in ("API_KEY", "ADMIN_EMAIL", "ADMIN_PASSWORD"):
            click.echo(f"{name:32} {settings[name]}")
    sys.exit(0 if all(is_up for *_, is_up in rows) else 1)


if __name__ == "__main__":
    main()
