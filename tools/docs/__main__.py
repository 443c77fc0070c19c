"""Write the generated parts of README.md, docs/ and dvc.yaml, so that each fact has one source.

A part of a page lies between `<!-- NAME -->` and `<!-- /NAME -->`; of dvc.yaml the code deps of the stages are
generated. Run it with `make docs`, or with `python -m tools.docs`; `--check`, as in `make lint`, changes nothing and
exits 1 when a part is out of step. Of a run, results and pictures are written where there is one; the check compares
those of the committed run, and none where settings, rows or README are a user's own.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from stages.common.params import read_yaml
from tools.common.project import DEFAULTS, LOSS, SCORES, is_default
from tools.docs import agents, metric_words, pictures, tables
from tools.docs.code_deps import fill_code_deps
from tools.docs.public_rows import public_rows_table

PUBLIC_ROWS, RESULTS = "public rows", "results"


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 when a part is out of step.")
def main(check: bool) -> None:
    parts = dict(generated())
    has_run = Path("metrics/lineage.json").exists() and (is_default() or not check)
    if has_run:
        parts[RESULTS] = tables.result_table(Path("metrics"))
    if not check and (table := public_rows_table()):
        parts[PUBLIC_ROWS] = table
    texts = {page: fill(page, parts) for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]}
    texts[Path("dvc.yaml")] = fill_code_deps(Path("dvc.yaml").read_text(encoding="utf-8"))
    texts[Path("AGENTS.md")], texts[Path("llms.txt")] = agents.agents(), agents.llms()
    if has_run:
        texts[LOSS] = pictures.draw_loss(Path("metrics/train/plots/metrics"))
        texts[SCORES] = pictures.draw_scores(Path("metrics/eval"))
    stale = [page for page, text in texts.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    bars = pictures.BARS if has_run else {}
    stale += [path for path, (source, *_) in bars.items() if not pictures.is_drawn_from(path, source)]
    if check and stale:
        raise click.ClickException(f"out of step: {', '.join(map(str, stale))}; run `make docs`")
    for page in stale:
        page.parent.mkdir(exist_ok=True)
        if page in texts:
            page.write_text(texts[page], encoding="utf-8", newline="\n")
        else:
            page.write_bytes(pictures.draw_bars(*pictures.BARS[page]))
        click.echo(f"written: {page}")


def generated() -> Iterator[tuple[str, str]]:
    """Yield name and text of every generated part of a page, apart from those that need a run or other files."""
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    yield "stages", tables.stage_table(stages)
    yield "metrics", metric_words.metrics_table()
    yield "summary", agents.SUMMARY
    yield "params", tables.params_table(DEFAULTS)
    yield "formats", tables.formats_blocks()
    yield "columns", tables.columns_table()
    yield "turns", tables.turns_table()
    yield "drop reasons", tables.drop_reasons_table()
    yield "gates", tables.gates_table()
    yield "families", tables.families_table(Path("docs/chat-templates.json"))
    for stage in stages:
        yield f"help {stage}", tables.help_text(f"stages.{stage}.__main__")
    for path in sorted(Path("tools").glob("*.py")):
        if path.stem != "__init__":
            yield f"help {path.stem}", tables.help_text(f"tools.{path.stem}")
    for path in sorted(Path("tools").glob("*/__main__.py")):
        yield f"help {path.parent.name}", tables.help_text(f"tools.{path.parent.name}.__main__")


def fill(page: Path, parts: dict[str, str]) -> str:
    """Return the text of a page with every part filled in.

    Raises:
        click.ClickException: the page has a part with an unknown name.
    """

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name in (PUBLIC_ROWS, RESULTS) and name not in parts:
            return match[0]  # what it is made of is missing, and it stays as it is
        if name not in parts:
            raise click.ClickException(f"{page}: no generated part has the name {name}; correct it")
        return f"<!-- {name} -->\n{parts[name]}\n<!-- /{name} -->"

    pattern = r"<!-- (?P<name>[\w ]+) -->\n.*?<!-- /(?P=name) -->"
    return re.sub(pattern, part, page.read_text(encoding="utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    main()
