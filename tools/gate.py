"""Print the verdict of every gate on the models in models/, and exit 1 if a gate failed or a model has changed since.

Reads metrics/gates.json and the hashes in metrics/lineage.json, which the report stage writes. For each failed gate
it says what to check. Run it with `make gate`, or with `python -m tools.gate`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.report import fingerprints
from stages.report.fingerprints import FOLDERS
from stages.report.gates import GATES


@click.command(help=__doc__)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
@click.option("--lineage", type=click.Path(path_type=Path), default="metrics/lineage.json", show_default=True)
def main(gates: Path, lineage: Path) -> None:
    files.require(gates, "make repro")
    verdicts = files.read_json(gates)
    if different := sorted(verdicts.keys() ^ GATES.keys()):
        raise click.ClickException(f"{gates}: not the gates of this code ({', '.join(different)}); run `make repro`")
    rows = [("gate", "value", "limit", "margin", "verdict")]
    for name in GATES:
        verdict = verdicts[name]
        value, margin = ("-" if verdict[key] is None else f"{verdict[key]:g}" for key in ("value", "margin"))
        limit = "-" if verdict["limit"] is None else f"{verdict['bound']} {verdict['limit']:g}"
        unmeasured = "not judged" if verdict["limit"] is None else "not measured" if verdict["value"] is None else ""
        word = unmeasured or ("passed" if verdict["passed"] else "FAILED")
        rows.append((name, value, limit, margin, word))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    changed = list(changed_files(files.read_json(lineage)["files"]))
    for line in changed:
        click.echo(line, err=True)
    if failed := [name for name in GATES if not verdicts[name]["passed"]]:
        for name in failed:
            click.echo(f"{name}: see {GATES[name].hint}", err=True)
        click.echo(f"limits: `gates.{failed[0]}` and the like in params.yaml; see docs/report.md", err=True)
    sys.exit(bool(changed or failed))


def changed_files(judged: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for every file in models/ that differs from the judged one; a missing model counts as unchanged.

    Args:
        judged: path and hashes of each file, as metrics/lineage.json lists them.
    """
    known = {entry["path"]: entry for entry in judged}
    for folder in (Path("models", name) for name in FOLDERS):
        if not folder.exists():
            continue
        here = {entry["path"]: entry for entry in fingerprints.below(folder)}
        there = {path for path in known if Path(path).is_relative_to(folder)}
        for path in sorted(here.keys() | there):
            if here.get(path) != known.get(path):
                way = f"`dvc checkout --force {folder}` restores it, or `make repro` judges it"
                yield f"{path}: changed since it was judged; {way}"


if __name__ == "__main__":
    main()
