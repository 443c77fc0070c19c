"""Check this machine and this checkout: each fault with the command that mends it.

A line is `ok`, `warn` (some uses are hit) or `fix`; with a `fix` the exit code is 1. Nothing is changed, and no
secret is printed. Run it with `make doctor` (`JSON=1` for JSON), or with `python -m tools.doctor`. Where the
environment is broken, `python3 -m tools.doctor.plain` does the same with Python alone.
"""

import sys

from tools.doctor import plain

try:
    import click
except ImportError:  # one of the faults that this finds
    sys.exit(plain.run("--json" in sys.argv[1:]))


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def main(as_json: bool) -> None:
    sys.exit(plain.run(as_json))


if __name__ == "__main__":
    main()
