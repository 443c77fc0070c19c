"""Print the verdict on the model in models/, and exit 1 when a gate failed.

Reads metrics/gates.json, which the report stage wrote. Of each gate that failed it says what to look at. Run it with
`make gate`, or with `python -m tools.gate`.
"""

import json
import sys
from pathlib import Path

import click

from stages.common import files
from stages.common.gates import GATES


@click.command(help=__doc__)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
def main(gates: Path) -> None:
    files.require(gates, "make repro")
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    if different := sorted(verdicts.keys() ^ GATES.keys()):
        raise click.ClickException(f"{gates}: of other gates than today's ({', '.join(different)}); run `make repro`")
    rows = [("gate", "value", "limit", "margin", "verdict")]
    for name in GATES:
        verdict = verdicts[name]
        measured = ["-", "-"] if verdict["value"] is None else [f"{verdict[key]:g}" for key in ("value", "margin")]
        word = "FAILED" if not verdict["passed"] else "not measured" if verdict["value"] is None else "passed"
        rows.append((name, measured[0], f"{verdict['bound']} {verdict['limit']:g}", measured[1], word))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    if failed := [name for name in GATES if not verdicts[name]["passed"]]:
        for name in failed:
            click.echo(f"{name}: look at {GATES[name].look}", err=True)
        click.echo(f"limits: `gates.{failed[0]}` in params.yaml and so on; docs/report.md says more", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
