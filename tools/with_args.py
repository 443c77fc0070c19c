"""Run a command with the words of the variable ARGS at its end: split at blanks and quotes, nothing in it expanded.

It replaces itself by the command, which so keeps the terminal and the signals. `make test` and `make bench-gpu` run
with it; alone it is `ARGS="-k train" python -m tools.with_args COMMAND...`.
"""

import os
import shlex

import click


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(command: tuple[str, ...]) -> None:
    text = os.environ.pop("ARGS", "")
    try:
        words = shlex.split(text)
    except ValueError as error:  # a quote without its end
        raise click.ClickException(
            f"ARGS={text}: {str(error).lower()}; quote it as in ARGS=\"-k 'one or two'\""
        ) from None
    os.execvp(command[0], [*command, *words])


if __name__ == "__main__":
    main()
