"""Write a page that shows a run, and an index of all runs, as HTML files that need no network.

The page has gates, scores with intervals, curves, what became of the rows, where the model comes from, what differs
from the last accepted run, sample answers, sizes and times. Without a revision it is the run in the workspace,
committed or not. The index lists the runs of all commits and DVC experiments, and compares two of them. Both go to
reports/, which git ignores. Run it with `make report-page`, `make report-page REV=v1.0`, or with `python -m
tools.report_page`.
"""

import time
from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.compare.page import format_number
from tools.common import repository
from tools.common.judged_run import judge_relative, load_judged
from tools.common.recorded_run import Run, describe_run
from tools.report_page import index_page, run_page
from tools.report_page.charts import shown

HERE = "workspace.html"  # the page of a run that is not committed


@click.command(help=__doc__)
@click.option("--rev", help="A git revision or the name of a DVC experiment; default: the workspace.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="reports", show_default=True)
def main(rev: str | None, out: Path) -> None:
    # Inputs
    names = index_page.names_of_runs()
    here = rev is None and bool(repository.git("status", "--porcelain", "--", *repository.RECORD_FILES))
    if here:
        contents = repository.workspace_files()
        run = describe_run(contents, workspace_commit())
        run |= {"gates": judge_relative(run)}
    else:
        commit = repository.recorded(revision_of(rev, names) if rev else "HEAD")
        contents, run = repository.read_files(commit), named_run(commit, names)
    out.mkdir(parents=True, exist_ok=True)
    page = out / page_name(run)

    # Work
    text = render("run.html", **run_page.describe(run, contents, here=is_here(run)), page=page.name)
    files.write_texts({page: text})
    if not here:
        (out / HERE).unlink(missing_ok=True)  # of a run that has been committed since
    index = render("index.html", **describe_index(out, run if here else None, names))
    files.write_texts({out / "index.html": index})

    # Outputs
    click.echo(f"{page}: {run['commit']['subject']}")
    click.echo(f"{out / 'index.html'}: all runs")


def workspace_commit() -> dict[str, str]:
    """Return what stands for the commit of a run that is not committed."""
    lock = Path("dvc.lock")
    files.require(lock, "make repro")
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(lock.stat().st_mtime))
    return {"hash": "", "date": date, "subject": "the workspace, not committed"}


def revision_of(rev: str, names: dict[str, list[tuple[str, bool]]]) -> str:
    """Return the commit of a DVC experiment by its name, which git does not know; else the revision itself."""
    experiments = {name: commit for commit, given in names.items() for name, is_experiment in given if is_experiment}
    return experiments.get(rev, rev)


def named_run(commit: repository.Commit, names: dict[str, list[tuple[str, bool]]]) -> Run:
    """Read a run; that of a DVC experiment is called by the experiment's name, as its subject is a hash."""
    run = load_judged(commit)
    for name, is_experiment in names.get(commit, []):
        if is_experiment:
            run["commit"]["subject"] = f"experiment {name}"
    return run


def page_name(run: Run) -> str:
    """Return the name of the file of a run's page."""
    return f"{run['commit']['hash'][:12]}.html" if run["commit"]["hash"] else HERE


def is_here(run: Run) -> bool:
    """Whether the run is that of the workspace's dvc.lock."""
    lock = Path("dvc.lock")
    if not run["commit"]["hash"]:
        return True
    text = repository.show_file(repository.Commit(run["commit"]["hash"]), "dvc.lock")
    return lock.exists() and lock.read_text(encoding="utf-8") == text


def describe_index(out: Path, here: Run | None, names: dict[str, list[tuple[str, bool]]]) -> dict[str, Any]:
    """Return the values of the index: the workspace's run, if it is not committed, then those of all commits."""
    from tqdm import tqdm

    commits = repository.run_commits()
    runs = [here] if here else []
    runs += [
        named_run(commit, names) for commit in tqdm(commits, desc="index", unit="run", delay=2, dynamic_ncols=True)
    ]
    runs = sorted((run for run in runs if run["metrics"]), key=lambda run: run["commit"]["date"], reverse=True)
    rows = [
        index_page.index_row(
            run, names.get(run["commit"]["hash"], []), page_name(run) if (out / page_name(run)).exists() else None
        )
        for run in runs
    ]
    return {"rows": rows, "columns": index_page.COLUMNS, "facts": index_page.compared_facts(runs)}


def render(template: str, **values: Any) -> str:
    """Fill in a template; every text in it is escaped, because rows and names of files come from strangers."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # `tojson` also escapes what would end the script element
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"score": format_number, "shown": shown, "size": size, "value": value}
    return environment.get_template(template).render(**values)


def size(count: float) -> str:
    """Format a number of bytes."""
    return (
        f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count:,} bytes"
    )


def value(found: Any) -> str:
    """Format a setting or a figure: numbers for readers, other values as JSON, a dash for nothing."""
    import json

    if isinstance(found, float):
        return shown(found)
    if found is None:
        return "–"  # noqa: RUF001  a dash, as in print
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


if __name__ == "__main__":
    main()
