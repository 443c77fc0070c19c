"""Show the logs of the servers: the last lines of each, then new ones. Ctrl-C ends the display; the servers run on.

Run it with `make logs`, or with `python -m tools.logs`.
"""

import os

import click

from tools.common.endpoints import LOGS, read_state
from tools.stop import PROJECT


@click.command(help=__doc__)
@click.option("--lines", default=20, show_default=True, help="Lines of each log to start with.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Show new lines as they come.")
def main(lines: int, follow: bool) -> None:
    state = read_state()
    written = sorted(map(str, LOGS.glob("*.log")))
    if state and state.runtime == "docker":
        shown = ["--tail", str(lines), *(["--follow"] if follow else [])]
        # By the project's name: docker/compose.yaml has variables that are only known at the start.
        command = ["docker", "compose", "--project-name", PROJECT, "logs", *shown]
    elif written:
        command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *written]
    else:
        raise click.ClickException(f"{LOGS}: no logs; run `make serve` first")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
