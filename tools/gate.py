"""Print the verdict on the model in models/, and exit 1 when a gate failed.

Reads metrics/gates.json, which the report stage wrote. Run it with `make gate`, or with `python -m tools.gate`.
"""

import json
import sys
from pathlib import Path

import click

from stages.common import files


@click.command(help=__doc__)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
def main(gates: Path) -> None:
    files.require(gates, "make repro")
    verdicts = json.loads(gates.read_text(encoding="utf-8"))
    width = max(map(len, verdicts))
    for name, verdict in verdicts.items():
        mark = "passed" if verdict["passed"] else "FAILED"
        value = "no question" if verdict["value"] is None else f"{verdict['value']:g}"
        click.echo(f"{mark}  {name:{width}}  {value:12}  {verdict['bound']} {verdict['limit']:g}")
    failed = [name for name, verdict in verdicts.items() if not verdict["passed"]]
    if failed:
        click.echo(f"gates failed: {', '.join(failed)}; see docs/report.md for what each one means", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
