"""Print what is served from this checkout, where, and whether it answers; exit 1 when something does not.

--secrets prints the API key and the page's account, too. Run it with `make status`, or with `python -m tools.status`.
"""

import sys

import click

from tools.serving import endpoint, keys


@click.command(help=__doc__)
@click.option("--secrets", is_flag=True, help="Print the API key and the page's account, too.")
def main(secrets: bool) -> None:
    serving, settings = endpoint.serving(), keys.load()
    rows = [
        (name, one.address, one.is_up(settings["API_KEY"]))
        for one in serving.endpoints
        for name in (one.name, *one.adapters)
    ]
    rows.append(("page", serving.page, endpoint.page_is_up(serving.page)))
    for name, address, is_up in rows:
        click.echo(f"{name:32} {address:28} {'healthy' if is_up else 'does not answer'}")
    if secrets:
        for name in ("API_KEY", "ADMIN_EMAIL", "ADMIN_PASSWORD"):
            click.echo(f"{name:32} {settings[name]}")
    sys.exit(0 if all(is_up for *_, is_up in rows) else 1)


if __name__ == "__main__":
    main()
