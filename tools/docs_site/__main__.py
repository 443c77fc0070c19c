"""Build the pages of docs/ as a site with search, which opens from the disk and asks no other host for anything.

The site is in .scratch/site/html. A broken link or anchor between pages is an error. Zensical, the generator, has an
environment of its own, .serve/site. Run it with `make docs-site`, or with `python -m tools.docs_site`.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
from jinja2 import Template

from tools.docs.agents import GROUPS, title

HERE = Path(__file__).parent
FOLDER = Path(".scratch/site")
# Zensical's offline search loads this from another host; worker.js beside this file does the same work.
SHIM = "https://unpkg.com/iframe-worker/shim"
WORKER = "assets/javascripts/worker.js"


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option(
    "--zensical", type=click.Path(path_type=Path), default=".serve/site/bin/zensical", show_default=True, hidden=True
)
def main(out: Path, zensical: Path) -> None:
    # Inputs
    if not zensical.exists():
        raise click.ClickException(f"{zensical}: Zensical is not installed; `make docs-site` installs it")
    shutil.rmtree(out, ignore_errors=True)
    pages = out / "pages"
    shutil.copytree("docs", pages)
    pages.joinpath("index.md").write_text(home(Path("README.md").read_text(encoding="utf-8")), encoding="utf-8")
    for page in pages.glob("*.md"):
        page.write_text(within(page.read_text(encoding="utf-8")), encoding="utf-8")

    # Work
    config = out / "zensical.toml"
    config.write_text(Template(HERE.joinpath("zensical.toml.jinja").read_text(encoding="utf-8")).render(nav=nav()))
    command = [str(zensical.absolute()), "build", "--clean", "--strict", "--config-file", config.name]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        problems = (done.stdout + done.stderr).partition("Traceback")[0].removeprefix("Build started\n").strip()
        raise click.ClickException(f"docs/ cannot be built; correct the pages (index.md is README.md):\n{problems}")

    # Outputs
    html = out / "html"
    shutil.copyfile(HERE / "worker.js", html / WORKER)
    for page in html.rglob("*.html"):
        page.write_text(page.read_text(encoding="utf-8").replace(SHIM, WORKER), encoding="utf-8")
    click.echo(f"{len(list(pages.glob('*.md')))} pages; open {html / 'index.html'}")


def home(readme: str) -> str:
    """Turn README.md into the first page: its links start in docs/."""
    return re.sub(r"\]\(docs/", "](", readme)


def within(page: str) -> str:
    """Turn links to files outside of docs/, which the site does not have, into their text."""
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", page)


def nav() -> list[tuple[str, list[tuple[str, Any]]]]:
    """List the groups of pages, and of each page the part of its title before the colon and its file."""
    return [
        (group, [(title(name).partition(":")[0], f"{name}.md") for name in names]) for group, names in GROUPS.items()
    ]


if __name__ == "__main__":
    main()
