"""Print where a model came from: the commit that recorded its run, and the hashes of everything that went into it.

Without options it is HEAD's run. --model takes a model folder and --file any file, wherever they were copied to and
whatever they are called there, and finds the commit by their hashes; --name takes the name that `make serve` gave a
model, as it stands in /v1/models. Run it with `make lineage`, such as `make lineage MODEL=awq` or `make lineage
FILE=model.safetensors FORMAT=json`, or with `python -m tools.lineage`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stages import report
from stages.common import files
from tools.common import artefact, bom, differences, repository, run
from tools.common.run import Run


@click.command(help=__doc__)
@click.option("--rev", help="A git revision, in place of HEAD; with --model, --name or --file, of every commit.")
@click.option("--model", help="base, adapter, merged or awq in models/, or the path of a copy.")
@click.option("--name", help="A name under which a model is served, such as lockstep-awq-1a2b3c4d.")
@click.option("--file", type=click.Path(path_type=Path), help="Any file.")
@click.option("--format", "form", type=click.Choice(["text", "json", "cyclonedx"]), default="text", show_default=True)
def main(rev: str | None, model: str | None, name: str | None, file: Path | None, form: str) -> None:
    # Inputs
    if len(given := [option for option in (model, name, file) if option]) > 1:
        raise click.ClickException("--model, --name and --file: one at a time")
    wanted = artefact.of_model(model) if model else artefact.of_name(name) if name else None
    wanted = artefact.of_file(file) if file else wanted
    commit, since = artefact.recorded(wanted, rev) if wanted else (repository.recorded(rev or "HEAD"), "")

    # Work
    found = run.load(commit)
    if wanted:
        places = artefact.places(wanted, found)
        found["artefact"] = wanted._asdict() | {"places": places, "first_commit": since}

    # Outputs
    if form == "cyclonedx":
        differences.refuse(found)
        click.echo(bom.render(found, model_of(found)), nl=False)
    elif form == "json":
        click.echo(files.dump_json(found), nl=False)
    else:
        for label, text in lines(found):
            click.echo(f"{label:12} {text}")
    if found["differs"]:
        click.echo(f"note: not what dvc.lock at {commit} says: {', '.join(found['differs'])}", err=True)
    for note in staleness() if not (rev or given) or model in report.FOLDERS else []:
        click.echo(f"note: {note}", err=True)


def lines(found: Run) -> Iterator[tuple[str, str]]:
    """Give the lineage as names and texts, for people; hashes first, as `sha256sum` has them."""
    commit, thing = found["commit"], found.get("artefact")
    if thing:
        yield "artefact", f"{thing['sha256'] or thing['md5']}  {thing['path']}"
        for place in thing["places"]:
            yield "is", f"{place}, {role(found, place)}"
        if thing["first_commit"] != commit["hash"]:
            yield "first commit", thing["first_commit"]
    yield "commit", f"{commit['hash']}  {commit['date']}  {commit['subject']}"
    if base := found["base"]:
        yield "base", f"{base['id']} at {base['revision']}"
    for entry in found["data"]:
        source = (
            ", from {source} at {revision}, licence {licence}".format_map(entry["import"]) if entry["import"] else ""
        )
        yield "data", f"{entry['sha256']}  {entry['path']}, {entry['rows_read']} rows{source}"
    if rows := found["rows"]:
        counts = rows | {"dropped": sum(rows["dropped"].values())}
        shown = ("read", "kept", "dropped", "train", "val", "calibration")
        yield "rows", ", ".join(f"{counts[name]} {name}" for name in shown)
    for entry in found["environment"]:
        yield "environment", f"{entry['sha256']}  {entry['path']}"
    for name, stage in found["stages"].items():
        for out in stage["outs"]:
            if not out["path"].startswith("metrics/"):
                yield "out", f"{out['md5']:36}  {out['path']}, by {name}"
    for entry in found["models"].get(model_of(found), {}).get("files", []):
        yield "file", f"{entry['sha256']}  {entry['path']}"
    failed = [name for name, verdict in found["gates"].items() if not verdict["passed"]]
    passed = f"{len(found['gates']) - len(failed)} of {len(found['gates'])} passed"
    yield "gates", f"{passed}{'; failed: ' if failed else ''}{', '.join(failed)}"


def role(found: Run, place: str) -> str:
    """Tell which stage wrote or read what lies at a path."""
    for kind, verb in (("outs", "written"), ("deps", "read")):
        for name, stage in found["stages"].items():
            if any(place == entry["path"] or place.startswith(f"{entry['path']}/") for entry in stage[kind]):
                return f"{verb} by {name}"
    raise AssertionError(f"{place} is in no stage")


def model_of(found: Run) -> str:
    """Give the model that is asked about: that of the artefact, or the last one."""
    for place in found.get("artefact", {}).get("places", []):
        if place.startswith("models/"):
            return str(Path(place).parts[1])
    return "awq"


def staleness() -> Iterator[str]:
    """Tell in what the workspace is not the run that was committed."""
    if repository.git("status", "--porcelain", "--", *repository.RECORDED):
        yield "the workspace holds another run, which is not committed; commit it, and this is its lineage"
    # Asked of DVC itself, which remembers the hashes of large files.
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode == 0 and (stale := json.loads(asked.stdout)):
        yield f"the workspace is not what its dvc.lock says, in {', '.join(sorted(stale))}; `dvc status` says more"


if __name__ == "__main__":
    main()
