"""Print the settings of axolotl, LLaMA-Factory or unsloth as a recipe of this project, and what it cannot carry over.

FILE is their YAML, or a shell script with their command line. Each line names the key that it comes from; comments at
the end name every other key, with the reason. Rows are not copied: the last line has the commands that import them.
The result is checked by the params of every stage. Run it with `make convert FILE=qlora.yml`, or with `python -m
tools.convert`.
"""

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import click

from stages.common import files
from tools.convert import axolotl, llama_factory, overlay, unsloth
from tools.convert.settings import Found, Theirs, leave_rest, read_settings, require_shapes
from tools.recipe.overlays import read_document


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--write", help="Also write it to recipes/NAME.yaml, for `make recipe NAME=...`.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="On how many GPUs it trains.")
@click.option("--datasets", type=click.Path(path_type=Path), help="LLaMA-Factory's dataset_info.json.")
@click.option("--recipes", type=click.Path(path_type=Path), default="recipes", show_default=True)
def main(file: Path | None, write: str | None, gpus: int, datasets: Path | None, recipes: Path) -> None:
    # Inputs
    if file is None:
        raise click.ClickException("FILE: missing; name a YAML file of axolotl, LLaMA-Factory or unsloth")
    target = recipe_path(recipes, write)
    given = read_settings(file)
    defaults = read_document(recipes / "tiny.yaml")
    known = {path.stem: read_document(path, defaults) for path in sorted(recipes.glob("*.yaml"))}

    # Work
    theirs, module = recognise(file, given, gpus)
    require_shapes(theirs)
    found = Found({}, {}, set(), [])
    if module is llama_factory:
        llama_factory.convert(theirs, found, datasets)
    else:
        module.convert(theirs, found)
    off = leave_rest(theirs, found, module.REASONS)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print when they load
        overlay.leave_unsupported(theirs, found)
        text = overlay.write_overlay(theirs, found, off, known)
        overlay.check(theirs, text, defaults)

    # Outputs
    click.echo(text, nl=False)
    if target:
        files.write_texts({target: text})
        click.echo(f"{target}: written; next: `make recipe NAME={write}`", err=True)


def recipe_path(recipes: Path, name: str | None) -> Path | None:
    """Return where to write the recipe. One that exists is never replaced."""
    if not name:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise click.ClickException(f"--write: {name!r}: must be a name of letters, digits and . _ -, without folders")
    path = recipes / f"{name.removesuffix('.yaml')}.yaml"
    if path.exists():
        raise click.ClickException(f"{path}: exists; choose another name, or delete it")
    return path


def recognise(file: Path, given: dict[str, Any], gpus: int) -> tuple[Theirs, Any]:
    """Find out by its keys whose file it is.

    Raises:
        click.ClickException: nobody's.
    """
    if "base_model" in given:
        return Theirs("axolotl", file, given, axolotl.DEFAULTS, gpus), axolotl
    if "model_name_or_path" in given:
        return Theirs("LLaMA-Factory", file, given, llama_factory.DEFAULTS, gpus), llama_factory
    if {"training", "lora", "model_name", "max_seq_length", "r"} & set(given):
        settings, names = unsloth.flat(given)
        silent = unsloth.defaults(given, file.suffix == ".sh")
        return Theirs("unsloth", file, settings, silent, gpus, names), unsloth
    raise click.ClickException(
        f"{file}: not recognised; axolotl names the model base_model, LLaMA-Factory model_name_or_path, and unsloth "
        "model_name, or has the sections training and lora"
    )


if __name__ == "__main__":
    main()
