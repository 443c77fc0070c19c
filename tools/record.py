"""Record a command as an SVG picture of a terminal, with the second at which each line came.

The picture follows the reader's light or dark theme, and its text is text. README.md shows one of `make repro`. The
command runs with its output in a pipe, so that progress bars are a line now and then. Run it with `python -m
tools.record --out docs/images/terminal.svg -- make repro`.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click

from stages.common import files

COLUMNS = 100  # longer lines are cut


class Line(NamedTuple):
    """A line of output, and the seconds since the start at which it came; None for lines of the picture's own."""

    text: str
    seconds: float | None = None


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The SVG file.")
@click.option("--first", default=10, show_default=True, help="Lines to show from the start of the output.")
@click.option("--last", default=14, show_default=True, help="Lines to show from its end.")
@click.argument("command", nargs=-1, required=True)
def main(out: Path, first: int, last: int, command: tuple[str, ...]) -> None:
    lines = run(command)
    picture = render(shlex.join(command), chosen(lines, first, last))
    files.write_texts({out: picture})
    click.echo(f"{out}: {len(lines)} lines in {lines[-1].seconds or 0:.0f} s, {len(picture)} bytes")


def run(command: tuple[str, ...]) -> list[Line]:
    """Run a command, show its output, and return its lines.

    Raises:
        click.ClickException: there is no such command, it fails, or it prints nothing.
    """
    start, lines = time.monotonic(), []
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise click.ClickException(f"{command[0]}: {error.strerror}") from None
    for text in process.stdout or ():
        sys.stdout.write(text)
        lines.append(Line(text.rstrip(), time.monotonic() - start))
    if code := process.wait():
        raise click.ClickException(f"{shlex.join(command)}: exit code {code}; nothing is recorded")
    if not lines:
        raise click.ClickException(f"{shlex.join(command)}: prints nothing; nothing is recorded")
    return lines


def chosen(lines: list[Line], first: int, last: int) -> list[Line]:
    """Return the lines to show: the first and the last ones that are not empty, and between them how many are not."""
    full = [line for line in lines if line.text]
    if len(full) <= first + last:
        return full
    left = len(full) - first - last
    return [*full[:first], Line(f"… {left} more line{'s' * (left > 1)}"), *full[len(full) - last :]]


def render(command: str, lines: list[Line]) -> str:
    """Draw the lines as SVG."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(__file__).with_name("record.svg.jinja").read_text(encoding="utf-8"))
    shown = [
        {
            "text": line.text if len(line.text) <= COLUMNS else f"{line.text[: COLUMNS - 1]}…",
            "time": "" if line.seconds is None else f"{int(line.seconds) // 60}:{int(line.seconds) % 60:02}",
        }
        for line in lines
    ]
    return template.render(command=command, lines=shown)


if __name__ == "__main__":
    main()
