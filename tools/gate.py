"""Print the verdict of every gate on the models in models/, and exit 1 unless all pass.

Reads metrics/gates.json and the hashes in metrics/lineage.json, which the report stage writes. For each gate that
failed or cannot be judged it says what to check. A model that is missing or has changed since, a stale pipeline and a
damaged file are an error of one line, with exit code 1, too. Run it with `make gate`, or with `python -m tools.gate`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stages.common.params import load_params
from stages.report import fingerprints
from stages.report.figures import METRICS
from stages.report.fingerprints import FOLDERS
from stages.report.gates import GATES
from stages.report.params import GatesParams
from tools.common.judged_run import read_verdicts
from tools.common.recorded_run import load_workspace
from tools.common.stale_stages import describe_stale_stages

LINEAGE = "metrics/lineage.json"


@click.command(help=__doc__)
def main() -> None:
    # Inputs
    load_params(Path("params.yaml"), "gates", GatesParams)
    run = load_workspace((*METRICS, "compare", "gates", "lineage"))
    require_judged(run["metrics"]["lineage"].get("files"))
    if stale := describe_stale_stages(cached=False):  # the verdict is that of the files, wherever they are kept
        raise click.ClickException(stale)
    verdicts = read_verdicts()

    # Outputs
    for line in table(verdicts):
        click.echo(line)
    wrong = list(what_to_check(verdicts))
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def what_to_check(verdicts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each gate that did not pass, and one on limits; none if all passed."""
    wrong = {name: verdict for name, verdict in verdicts.items() if not verdict["passed"]}
    for name, verdict in wrong.items():
        if problem := verdict.get("problem"):
            yield f"{name}: cannot be judged: {problem}; or set the gate to null, which leaves it out"
        else:
            yield f"{name}: see {GATES[name].hint}"
    if wrong:
        yield f"limits: `gates.{next(iter(wrong))}` and the like in params.yaml; see docs/report.md"


def table(verdicts: dict[str, dict[str, Any]]) -> list[str]:
    """Format the verdicts as lines with aligned columns."""
    rows = [("gate", "value", "limit", "margin", "verdict")]
    for name, verdict in verdicts.items():
        value, margin = ("-" if verdict[key] is None else f"{verdict[key]:g}" for key in ("value", "margin"))
        limit = "-" if verdict["limit"] is None else f"{verdict['bound']} {verdict['limit']:g}"
        rows.append((name, value, limit, margin, state(verdict)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def state(verdict: dict[str, Any]) -> str:
    """Say what became of a gate, in a word or two."""
    if verdict.get("problem"):
        return "CANNOT BE JUDGED"
    if verdict["bound"] is None:
        return "not judged"
    word = "passed" if verdict["passed"] else "FAILED"
    return f"{word}, against {verdict['not_worse_than']}" if verdict.get("not_worse_than") else word


def require_judged(judged: list[dict[str, Any]] | None) -> None:
    """Fail where a file in models/ is not the one that was judged.

    Args:
        judged: path and hashes of each file, as metrics/lineage.json lists them.

    Raises:
        click.ClickException: a model is missing, or has changed.
    """
    if not judged:
        raise click.ClickException(f"{LINEAGE}: no list of files; run `make repro`")
    known = {entry["path"]: entry for entry in judged}
    for folder in (Path("models", name) for name in FOLDERS):
        way = f"`dvc checkout --force {folder}` restores it, or `make repro` judges it"
        if not folder.is_dir():
            raise click.ClickException(f"{folder}: no such folder; {way}")
        here = {entry["path"]: entry for entry in fingerprints.below(folder)}
        there = {path for path in known if Path(path).is_relative_to(folder)}
        if changed := [path for path in sorted(here.keys() | there) if here.get(path) != known.get(path)]:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise click.ClickException(f"{changed[0]}{more}: changed since it was judged; {way}")


if __name__ == "__main__":
    main()
