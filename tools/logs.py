"""Show the logs of what is served, the newest lines first and then what comes; Ctrl-C ends the showing alone.

Run it with `make logs`, or with `python -m tools.logs`.
"""

import os

import click

from tools.serving import compose, endpoint, supervision


@click.command(help=__doc__)
@click.option("--lines", default=20, show_default=True, help="Lines of each log to begin with.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on with what comes.")
def main(lines: int, follow: bool) -> None:
    kept = sorted(map(str, supervision.LOGS.glob("*.log")))
    if endpoint.STATE.exists() and endpoint.recorded().runtime == "docker":
        command = compose.logs(lines, follow)
    elif kept:
        command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *kept]
    else:
        raise click.ClickException(f"{supervision.LOGS}: no logs; `make serve` writes them")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
