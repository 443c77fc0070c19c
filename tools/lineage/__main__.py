"""Print where a model comes from: the commit that records its run, and the hashes of everything it was made from.

Without options it is the run of HEAD. --model takes a model folder and --file any file, also a copy under another
name elsewhere: the commit is found by their hashes. --name takes the name under which `make serve` serves a model,
as /v1/models lists it. Run it with `make lineage`, such as `make lineage MODEL=awq` or `make lineage
FILE=model.safetensors FORMAT=json`, or with `python -m tools.lineage`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stages.common import files
from stages.report.fingerprints import FOLDERS
from tools.common import repository
from tools.common.judged_run import load_judged
from tools.common.recorded_run import Run, require_one_run
from tools.lineage.artefact import find_commit, find_places, hash_file, hash_model, hash_of_served
from tools.lineage.bom import render_bom


@click.command(help=__doc__)
@click.option("--rev", help="A git revision instead of HEAD; with --model, --name or --file instead of every commit.")
@click.option("--model", help="base, adapter, merged or awq in models/, or the path of a copy.")
@click.option("--name", help="A name under which a model is served, such as lockstep-awq-1a2b3c4d.")
@click.option("--file", type=click.Path(path_type=Path), help="Any file.")
@click.option("--format", "form", type=click.Choice(["text", "json", "cyclonedx"]), default="text", show_default=True)
def main(rev: str | None, model: str | None, name: str | None, file: Path | None, form: str) -> None:
    # Inputs
    if len(given := [option for option in (model, name, file) if option]) > 1:
        raise click.ClickException("--model, --name, --file: more than one of them; use one")
    wanted = hash_model(model) if model else hash_of_served(name) if name else hash_file(file) if file else None
    commit, first = find_commit(wanted, rev) if wanted else (repository.recorded("HEAD" if rev is None else rev), "")

    # Work
    run = load_judged(commit)
    if wanted:
        run["artefact"] = wanted._asdict() | {"places": find_places(wanted, run), "first_commit": first}

    # Outputs
    if form == "cyclonedx":
        require_one_run(run)
        click.echo(render_bom(run, model_of(run)), nl=False)
    elif form == "json":
        click.echo(files.dump_json(run), nl=False)
    else:
        for label, text in lines(run):
            click.echo(f"{label:12} {text}")
    if run["differs"]:
        click.echo(f"note: not what dvc.lock at {commit} says: {', '.join(run['differs'])}", err=True)
    for note in staleness() if not (rev or given) or model in FOLDERS else []:
        click.echo(f"note: {note}", err=True)


def lines(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the lineage as labels and texts. Hashes come first in a text, as `sha256sum` prints them."""
    commit, wanted = run["commit"], run.get("artefact")
    if wanted:
        yield "artefact", f"{wanted['sha256'] or wanted['md5']}  {wanted['path']}"
        for place in wanted["places"]:
            yield "is", f"{place}, {role(run, place)}"
        if wanted["first_commit"] != commit["hash"]:
            yield "first commit", wanted["first_commit"]
    yield "commit", f"{commit['hash']}  {commit['date']}  {commit['subject']}"
    if base := run["base"]:
        yield "base", f"{base['id']} at {base['revision']}"
    for entry in run["data"]:
        source = (
            ", from {source} at {revision}, licence {licence}".format_map(entry["import"]) if entry["import"] else ""
        )
        yield "data", f"{entry['sha256']}  {entry['path']}, {entry['rows_read']} rows{source}"
    if rows := run["rows"]:
        counts = rows | {"dropped": sum(rows["dropped"].values())}
        shown = ("read", "kept", "dropped", "train", "val", "calibration")
        yield "rows", ", ".join(f"{counts[name]} {name}" for name in shown)
    for entry in run["environment"]:
        yield "environment", f"{entry['sha256']}  {entry['path']}"
    for name, stage in run["stages"].items():
        for out in stage["outs"]:
            if not out["path"].startswith("metrics/"):
                yield "out", f"{out['md5']:36}  {out['path']}, by {name}"
    for entry in run["models"].get(model_of(run), {}).get("files", []):
        yield "file", f"{entry['sha256']}  {entry['path']}"
    failed = [name for name, verdict in run["gates"].items() if not verdict["passed"]]
    passed = f"{len(run['gates']) - len(failed)} of {len(run['gates'])} passed"
    yield "gates", f"{passed}{'; failed: ' if failed else ''}{', '.join(failed)}"


def role(run: Run, place: str) -> str:
    """Name the stage that wrote the file at a path, or else the first one that read it, alone or with its folder."""
    for kind, verb in (("outs", "written"), ("deps", "read")):
        for name, stage in run["stages"].items():
            if any(place == entry["path"] or place.startswith(f"{entry['path']}/") for entry in stage[kind]):
                return f"{verb} by {name}"
    raise AssertionError(f"{place} is in no stage")


def model_of(run: Run) -> str:
    """Return the model that the question is about: the artefact's, or awq."""
    for place in run.get("artefact", {}).get("places", []):
        if place.startswith("models/"):
            return str(Path(place).parts[1])
    return "awq"


def staleness() -> Iterator[str]:
    """Yield how the workspace differs from the committed run."""
    if repository.git("status", "--porcelain", "--", *repository.RECORD_FILES):
        yield "the workspace holds another run, which is not committed; commit it to see its lineage here"
    # DVC itself is asked, as it remembers the hashes of large files.
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode == 0 and (stale := json.loads(asked.stdout)):
        yield f"the workspace differs from its dvc.lock in {', '.join(sorted(stale))}; see `dvc status`"


if __name__ == "__main__":
    main()
