"""Rewrite the generated parts of README.md and docs/: what stands there twice comes from one place.

A part lies between `<!-- NAME -->` and `<!-- /NAME -->`. Run it with `make docs`, or with `python -m tools.docs`;
`--check` changes nothing and exits 1 when a part is out of step, which `make lint` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from stages.common import settings
from tools.common import accounting, pictures, tables


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 when something is out of step.")
def main(check: bool) -> None:
    parts = dict(generated())
    if not check and (table := accounting.table()):
        parts["accounts"] = table
    texts = {page: fill(page, parts) for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]}
    texts[pictures.LOSS] = pictures.draw_loss(Path("metrics/train/plots/metrics"))
    texts[pictures.SCORES] = pictures.draw_scores(Path("metrics/eval"))
    stale = [page for page, text in texts.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    stale += [path for path, (source, *_) in pictures.BARS.items() if not pictures.is_drawn_from(path, source)]
    if check and stale:
        raise click.ClickException(f"out of step: {', '.join(map(str, stale))}; run `make docs`")
    for page in stale:
        page.parent.mkdir(exist_ok=True)
        if page in texts:
            page.write_text(texts[page], encoding="utf-8", newline="\n")
        else:
            page.write_bytes(pictures.draw_bars(*pictures.BARS[page]))
        click.echo(f"rewritten: {page}")


def generated() -> Iterator[tuple[str, str]]:
    """Give every part by name."""
    stages = settings.read_yaml(Path("dvc.yaml"))["stages"]
    yield "stages", tables.stage_table(stages)
    yield "results", tables.result_table(Path("metrics"))
    yield "params", tables.params_table(Path("params.yaml"))
    yield "forms", tables.forms_blocks()
    yield "reasons", tables.reasons_table()
    yield "gates", tables.gates_table()
    for stage in stages:
        yield f"help {stage}", tables.help_text(f"stages.{stage}")
    for tool in (
        "card",
        "docs",
        "gate",
        "generate",
        "import",
        "lineage",
        "logs",
        "recipe",
        "runtime",
        "serve",
        "show_tokens",
        "smoke",
        "status",
        "stop",
        "trace",
        "verify",
    ):
        yield f"help {tool}", tables.help_text(f"tools.{tool}")


def fill(page: Path, parts: dict[str, str]) -> str:
    """Give the page's text with every part filled in."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "accounts" and name not in parts:
            return match[0]  # the rows are not at hand, and the table stays as it was made
        if name not in parts:
            raise click.ClickException(f"{page}: no generated part is called {name}")
        return f"<!-- {name} -->\n{parts[name]}\n<!-- /{name} -->"

    pattern = r"<!-- (?P<name>[\w ]+) -->\n.*?<!-- /(?P=name) -->"
    return re.sub(pattern, part, page.read_text(encoding="utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    main()
