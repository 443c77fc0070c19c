"""Rewrite the generated parts of README.md and docs/: what stands there twice comes from one place.

A part lies between `<!-- NAME -->` and `<!-- /NAME -->`. Run it with `make docs`, or with `python -m tools.docs`;
`--check` changes nothing and exits 1 when a part is out of step, which `make lint` does.
"""

import csv
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stages.common import settings

MODELS = ("base", "merged", "awq")
PICTURE = Path("docs/images/loss.svg")


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 when something is out of step.")
def main(check: bool) -> None:
    parts = dict(generated())
    texts = {page: fill(page, parts) for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]}
    texts[PICTURE] = draw_loss(Path("metrics/train/plots/metrics"))
    stale = [page for page, text in texts.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    if check and stale:
        raise click.ClickException(f"out of step: {', '.join(map(str, stale))}; run `make docs`")
    for page in stale:
        page.parent.mkdir(exist_ok=True)
        page.write_text(texts[page], encoding="utf-8", newline="\n")
        click.echo(f"rewritten: {page}")


def generated() -> Iterator[tuple[str, str]]:
    """Give every part by name."""
    stages = settings.read_yaml(Path("dvc.yaml"))["stages"]
    yield "stages", stage_table(stages)
    yield "results", result_table(Path("metrics"))
    yield "params", params_table(Path("params.yaml"))
    for stage in stages:
        yield f"help {stage}", help_text(f"stages.{stage}")
    for tool in ("docs", "gate", "generate", "lineage", "runtime", "verify"):
        yield f"help {tool}", help_text(f"tools.{tool}")


def fill(page: Path, parts: dict[str, str]) -> str:
    """Give the page's text with every part filled in."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in parts:
            raise click.ClickException(f"{page}: no generated part is called {name}")
        return f"<!-- {name} -->\n{parts[name]}\n<!-- /{name} -->"

    pattern = r"<!-- (?P<name>[\w ]+) -->\n.*?<!-- /(?P=name) -->"
    return re.sub(pattern, part, page.read_text(encoding="utf-8"), flags=re.DOTALL)


def stage_table(stages: dict[str, Any]) -> str:
    """Give dvc.yaml's stages as a table."""
    lines = ["| stage | what it does | writes |", "|---|---|---|"]
    for name, stage in stages.items():
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
        written = ", ".join(f"`{path.replace('${item.model}', 'MODEL')}`" for path in paths)
        lines.append(f"| [{name}](docs/{name}.md) | {stage['desc']} | {written} |")
    return "\n".join(lines)


def result_table(metrics: Path) -> str:
    """Give the committed run's scores as a table."""
    lines = ["| model | exact match | perplexity | stop rate | weights |", "|---|---|---|---|---|"]
    awq, merge = read_json(metrics / "awq.json"), read_json(metrics / "merge.json")
    sizes = {"base": merge["base_size_bytes"], "merged": merge["size_bytes"], "awq": awq["size_bytes"]}
    for name in MODELS:
        scores = read_json(metrics / "eval" / f"{name}.json")
        lines.append(
            f"| {name} | {scores['exact_match']:.3f} | {scores['perplexity']:.3f} | {scores['stop_rate']:.3f} "
            f"| {sizes[name] / 1e6:.2f} MB |"
        )
    data = read_json(metrics / "preprocess.json")
    lines += [
        "",
        f"{data['rows_read']} rows read, {data['rows_kept']} kept; {data['rows_train']} to train on, "
        f"{data['rows_val']} to score on. Merged against base + adapter: mean KL {merge['kl_mean']:.1e}, "
        f"top-1 agreement {merge['top1_agreement']:.4f}. AWQ: {awq['quantized_modules']} of "
        f"{awq['expected_modules']} linear layers in 4 bits.",
    ]
    return "\n".join(lines)


def params_table(params: Path) -> str:
    """Give every key of params.yaml with its value and its comment."""
    lines = ["| key | default | why |", "|---|---|---|"]
    path: list[str] = []
    for line in params.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*)(#(?P<why>.*))?", line)
        if not match:
            continue
        depth = len(match["indent"]) // 2
        path[depth:] = [match["key"]]
        value, why = match["value"].strip(), (match["why"] or "").strip()
        lines.append(f"| `{'.'.join(path)}` | {f'`{value}`' if value else ''} | {why} |")
    return "\n".join(lines)


def help_text(module: str) -> str:
    """Give what `--help` prints, 80 columns wide."""
    command = importlib.import_module(module).main
    context = click.Context(command, info_name=f"python -m {module}", terminal_width=80, max_content_width=80)
    return f"```console\n$ python -m {module} --help\n{command.get_help(context)}\n```"


def draw_loss(folder: Path) -> str:
    """Draw the training curve as SVG, the same bytes for the same curve."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    settings_ = {"svg.hashsalt": "lockstep", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings_):
        figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
        for name, label, marker in (("loss", "train", None), ("eval_loss", "val", "o")):
            with (folder / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
            axes.plot(
                [int(row["step"]) for row in rows], [float(row[name]) for row in rows], marker=marker, label=label
            )
        axes.set(xlabel="step", ylabel="loss per answer token", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def read_json(path: Path) -> dict[str, Any]:
    """Read what the committed run measured."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
