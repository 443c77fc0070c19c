"""Launch: from the first process to the last answer, or back to nothing."""

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from tools.serving import endpoint, supervision
from tools.serving.endpoint import Serving

if TYPE_CHECKING:
    from subprocess import Popen

START_SECONDS = 1800.0  # large weights on a slow disk


def start(launch: Callable[[], "Popen[bytes]"], serving: Serving, settings: dict[str, str]) -> None:
    """Start all parts and wait until they answer; end them where that fails or is interrupted.

    Raises:
        click.ClickException: a part was given up, or takes too long.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    process = launch()
    try:
        wait(process, serving, settings["API_KEY"])
    except BaseException:
        click.echo("ending what was started", err=True)
        supervision.end(process)
        raise


def wait(process: "Popen[bytes]", serving: Serving, key: str) -> None:
    """Wait until every address answers, and say when one does."""
    click.echo(f"starting; the logs are in {supervision.LOGS}")
    missing: dict[str, Callable[[], bool]] = {one.name: partial(one.is_up, key) for one in serving.endpoints}
    missing["page"] = partial(endpoint.page_is_up, serving.page)
    begin = time.monotonic()
    while missing:
        seconds = time.monotonic() - begin
        if process.poll() is not None:
            raise click.ClickException(f"a part ended again and again; {supervision.complaint()}")
        if seconds > START_SECONDS:
            raise click.ClickException(f"{', '.join(missing)}: no answer; {supervision.LOGS} says why")
        for name in [name for name, is_up in missing.items() if is_up()]:
            click.echo(f"{name} is up after {seconds:.0f} s")
            del missing[name]
        if missing and sys.stdout.isatty():
            click.echo(f"waiting for {', '.join(missing)}: {seconds:.0f} s\r", nl=False)
        time.sleep(1)
