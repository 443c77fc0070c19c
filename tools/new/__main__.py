"""Make a project of your own from this checkout: your rows, a recipe, and a history that later versions merge into.

DIR is a folder that does not exist yet, or an empty one. The project has the files of HEAD without what belongs to
the default rows: these rows, their run, their README and the limits of their gates. --data is imported as `make
import` does. Run it with `make new DIR=../mine DATA=rows.csv MODEL=smollm2-135m`, or with `python -m tools.new`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stages.common import files
from stages.common.params import read_yaml
from tools.common import repository
from tools.common.project import DEFAULTS, PARAMS, PROJECT, README, REMOTE, ROWS, RUN, SETTINGS
from tools.recipe.overlays import read_document, replace_lines

PLAIN = re.compile(r"[\w./+,@=~^!-]+")  # what the Makefile allows in the path of a checkout


@click.command(help=__doc__)
@click.argument("dir", default="")
@click.option("--data", default="", help="Rows to import: a file, or an https:// address.")
@click.option("--model", default="tiny", show_default=True, help="The recipe; `make recipe` lists them.")
@click.option("--columns", help="Which column is which, such as prompt=frage,completion=antwort.")
@click.option("--licence", help="Licence of the rows.")
def main(dir: str, data: str, model: str, columns: str | None, licence: str | None) -> None:
    # Inputs
    target = check_folder(dir)
    commit, address = check_checkout()

    with building(target) as project:
        # Work
        clone(project, commit, address)
        remove_default_run(project)
        about = write_settings(project, model)
        said = import_rows(project, data, columns, licence) if data else []
        write_readme(project, target.name, model, about, address)
        run(project, "git", "add", "--all")
        run(project, "git", "commit", "--quiet", f"--message=Start {target.name} from Lockstep {commit[:12]}")

    # Outputs
    click.echo(f"{dir}: made from commit {commit[:12]}; `make update` merges later ones of {address}")
    for line in said:
        click.echo(line)
    click.echo(f"params.yaml: recipe {model}, {about}")
    if model == DEFAULTS.stem:
        click.echo("it is for trying the way: real rows need a real model; `make recipe` lists them")
    if data:
        steps = "`make try` looks for mistakes, and `make repro` builds the model"
    else:
        steps = "`make import SOURCE=rows.csv COLUMNS=...` brings your rows, and `make repro` builds the model"
    click.echo(f"next: `cd {dir}`; {steps}; README.md has the commands")


def check_folder(folder: str) -> Path:
    """Return the absolute path of the new project.

    Raises:
        click.ClickException: no project can be made there.
    """
    if not folder:
        raise click.ClickException("DIR: missing; name a folder that does not exist yet, such as DIR=../mine")
    target = Path(folder).expanduser().absolute()
    target = target.parent.resolve() / target.name
    if not PLAIN.fullmatch(str(target)) or not target.name.strip("."):
        raise click.ClickException(f"{folder}: use letters, digits and . _ - + , @ = ~ ^ ! in the path")
    if target.is_relative_to(Path.cwd().resolve()):
        raise click.ClickException(f"{folder}: is in this checkout; name a folder beside it, such as DIR=../mine")
    if not target.parent.is_dir():
        raise click.ClickException(f"{target.parent}: no such folder; make it first")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise click.ClickException(f"{folder}: exists and is not empty; name another folder")
    return target


def check_checkout() -> tuple[repository.Commit, str]:
    """Return the commit that the project starts from, and the address of later ones.

    Raises:
        click.ClickException: this is no checkout of Lockstep with a history of its own.
    """
    if PROJECT.exists():
        raise click.ClickException(f"{PROJECT}: this is a project itself; run `make new` in a checkout of Lockstep")
    commit = repository.resolve("HEAD")
    if repository.git("rev-parse", "--show-prefix").strip():
        raise click.ClickException(
            "this folder is part of a larger repository; run `make new` in a clone of Lockstep"
        )
    if repository.git("status", "--porcelain", "--untracked-files=no"):
        click.echo("note: changes that are not committed here are not in the project", err=True)
    address = repository.git("config", "--default", "", "--get", "remote.origin.url").strip()
    if not address or Path(address).exists():  # a path may be relative to here
        address = str(Path(address or ".").resolve())
    return commit, address


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target`, which becomes `target` on success and is removed otherwise."""
    folder = target.with_name(f".{target.name}.building")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
        folder.rename(target)
    except OSError as error:
        raise click.ClickException(f"{error.filename or target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder and return its output.

    Raises:
        click.ClickException: it fails; the message is its own.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_DIR", "GIT_WORK"))}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        message = done.stderr.rpartition("Error: ")[2].strip() or done.stdout.strip()
        raise click.ClickException(message if command[0] != "git" else f"git {command[1]}: {message}")
    return done.stdout


def clone(project: Path, commit: repository.Commit, address: str) -> None:
    """Clone this checkout, with a branch of the project's own and the address of later versions as a remote."""
    here = Path.cwd()
    run(
        here,
        "git",
        "clone",
        "--quiet",
        "--no-tags",
        "--single-branch",
        f"--origin={REMOTE}",
        "--",
        str(here),
        str(project),
    )
    run(project, "git", "checkout", "--quiet", "--no-track", "-B", "main", commit, "--")
    for branch in run(project, "git", "branch", "--format=%(refname:short)").split():
        if branch != "main" and not branch.startswith("("):
            run(project, "git", "branch", "--quiet", "-D", "--", branch)
    run(project, "git", "remote", "set-url", "--", REMOTE, address)


def remove_default_run(project: Path) -> None:
    """Remove the default rows, and what their run left in git."""
    paths = [str(path) for path in (ROWS, *RUN)]
    run(project, "git", "rm", "-r", "--quiet", "--ignore-unmatch", "--", *paths)


def write_settings(project: Path, model: str) -> str:
    """Write a recipe into params.yaml, with limits for any rows where its own are those of the default rows.

    Returns:
        What the recipe says of itself in its first line.

    Raises:
        click.ClickException: there is no such recipe.
    """
    for name in dict.fromkeys((DEFAULTS.stem, model)):  # the defaults first: HEAD may have other settings
        run(project, sys.executable, "-m", "tools.recipe", "--", name)
    if read_yaml(project / PARAMS)["base"]["source"] not in ("hub", "modelscope"):
        document = read_document(project / PARAMS, read_document(project / DEFAULTS))
        wanted: dict[tuple[str, ...], list[str] | None] = {
            key: entry.lines for key, entry in read_document(SETTINGS).keys.items()
        }
        files.write_texts({project / PARAMS: replace_lines(document, wanted)})
    first = (project / DEFAULTS.with_stem(model)).read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ")


def import_rows(project: Path, data: str, columns: str | None, licence: str | None) -> list[str]:
    """Import rows as `make import` does, and return what it says of them."""
    path = Path(data).expanduser()
    options = [f"--{name}={value}" for name, value in (("columns", columns), ("licence", licence)) if value]
    source = str(path.absolute()) if path.exists() else data
    said = run(project, sys.executable, "-m", "tools.import", *options, "--", source)
    return [line for line in said.splitlines() if not line.startswith("next: ")]


def write_readme(project: Path, name: str, model: str, about: str, address: str) -> None:
    """Write the project's README, and the file that says that it is one."""
    import jinja2

    template = Path(__file__).with_name("README.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    records = sorted(project.glob("data/*.dvc"))
    rows = [f"`data/raw/{path.stem}`: {describe(path)}" for path in records]
    text = environment.from_string(template).render(name=name, recipe=f"`{model}`", about=about, rows=rows)
    (project / README).write_text(text, encoding="utf-8")
    note = (
        f"# A project made with Lockstep; `make update` merges later versions from the address.\naddress: {address}\n"
    )
    (project / PROJECT).write_text(note, encoding="utf-8")


def describe(record: Path) -> str:
    """Say what an import recorded of its rows."""
    facts = read_yaml(record)
    return f"{facts['desc']}, licence {facts['meta']['licence']}"


if __name__ == "__main__":
    main()
