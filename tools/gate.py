"""Print the verdict on the models in models/, and exit 1 when a gate failed or they are not those that were judged.

Reads metrics/gates.json and the hashes in metrics/lineage.json, which the report stage wrote. Of each gate that
failed it says what to look at. Run it with `make gate`, or with `python -m tools.gate`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stages import report
from stages.common import files, fingerprints
from stages.common.gates import GATES


@click.command(help=__doc__)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
@click.option("--lineage", type=click.Path(path_type=Path), default="metrics/lineage.json", show_default=True)
def main(gates: Path, lineage: Path) -> None:
    files.require(gates, "make repro")
    verdicts = files.read_json(gates)
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
    strange = list(doubts(files.read_json(lineage)["files"]))
    for doubt in strange:
        click.echo(doubt, err=True)
    if failed := [name for name in GATES if not verdicts[name]["passed"]]:
        for name in failed:
            click.echo(f"{name}: look at {GATES[name].look}", err=True)
        click.echo(f"limits: `gates.{failed[0]}` in params.yaml and so on; docs/report.md says more", err=True)
    sys.exit(bool(strange or failed))


def doubts(judged: list[dict[str, Any]]) -> Iterator[str]:
    """Name every file in models/ that is not the one that was judged; a model that is not here is in no doubt."""
    known = {entry["path"]: entry for entry in judged}
    for folder in (Path("models", name) for name in report.FOLDERS):
        if not folder.exists():
            continue
        here = {entry["path"]: entry for entry in fingerprints.below(folder)}
        there = {path for path in known if Path(path).is_relative_to(folder)}
        for path in sorted(here.keys() | there):
            if here.get(path) != known.get(path):
                way = f"`dvc checkout --force {folder}` brings back what was, or else `make repro`"
                yield f"{path}: not as it was judged; {way}"


if __name__ == "__main__":
    main()
