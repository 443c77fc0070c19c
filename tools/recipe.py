"""Write a recipe, complete settings for one model, into params.yaml; without a NAME, list the recipes.

A recipe holds the keys that differ from the defaults, each with its reason. They take the place of the lines in
params.yaml; keys that only other recipes set go back to their defaults, and all else stays as you set it. The
recipe `tiny` holds every default. Run it with `make recipe NAME=qwen2.5-0.5b REVISION=...`, or with
`python -m tools.recipe`.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import click

from stages import base
from stages.common import files
from tools.common import overlays
from tools.common.overlays import Document, Key

DEFAULTS = "tiny"
# These go to a library unchanged, so a recipe may set keys that params.yaml does not name.
OPEN: tuple[Key, ...] = (("train", "lora"), ("train", "sft"))
REVISION: Key = ("base", "revision")


@click.command(help=__doc__)
@click.argument("name", required=False)
@click.option("--revision", help="The model's full commit hash, 40 hex digits.")
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--recipes", type=click.Path(path_type=Path), default="recipes", show_default=True)
def main(name: str | None, revision: str | None, params: Path, recipes: Path) -> None:
    # Inputs
    found = {path.stem: path for path in recipes.glob("*.yaml")}
    if DEFAULTS not in found:
        raise click.ClickException(f"{recipes / DEFAULTS}.yaml: no such file; run from the repository root")
    if name is None:
        list_all(found)
        return
    if name not in found:
        raise click.ClickException(f"{name}: no such recipe{guess(name, found)} (`make recipe` lists them)")
    defaults = overlays.read(found[DEFAULTS])
    overlay = {known: overlays.read(path, defaults) for known, path in found.items()}
    refuse_unknown(overlay[name], defaults)
    before = overlays.read(params, defaults)

    # Work
    wanted = changes(name, overlay, before)
    wanted[REVISION], missing = pin(params, overlay[name], before, revision, wanted[REVISION])
    text = overlays.put(before, wanted)

    # Outputs
    if text == "".join(before.lines):
        click.echo(f"{params}: holds recipe {name} already")
    else:
        files.write_texts({params: text})
        after = overlays.read(params, defaults)
        click.echo(f"{params}: recipe {name}")
        for key in after.keys | before.keys:
            old, new = shown(before, key), shown(after, key)
            if old != new:
                click.echo(f"  {'.'.join(key)}: {old} -> {new}")
    if missing:
        click.echo(f"base.revision is still to be filled in: {missing}, then `make recipe NAME={name} REVISION=...`")
    else:
        click.echo(f"next: `git diff {params}`, then `make repro`")


def list_all(found: dict[str, Path]) -> None:
    """Print every recipe's name and the comment in its first line."""
    width = max(map(len, found))
    for name, path in sorted(found.items()):
        click.echo(f"{name:{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def refuse_unknown(recipe: Document, defaults: Document) -> None:
    """Fail when a recipe sets a key that the defaults do not have."""
    for key in recipe.keys:
        if key not in defaults.keys and key[:-1] not in OPEN:
            near = guess(".".join(key), [".".join(known) for known in defaults.keys])
            raise click.ClickException(f"{recipe.path}: {'.'.join(key)}: unknown key{near}")


def changes(name: str, overlay: dict[str, Document], params: Document) -> dict[Key, list[str] | None]:
    """Give the lines of every key that params.yaml must change for a recipe, None for one that it must not have."""
    defaults, recipe = overlay[DEFAULTS], overlay[name]
    if name == DEFAULTS:
        touched = [*defaults.keys, *(key for key in params.keys if key not in defaults.keys and key[:-1] in OPEN)]
    else:
        others = [key for other, document in overlay.items() if other != DEFAULTS for key in document.keys]
        touched = [REVISION, *(key for key in others if key in defaults.keys or key[:-1] in OPEN)]
    sources = [recipe.keys, defaults.keys]
    return {key: next((keys[key].lines for keys in sources if key in keys), None) for key in touched}


def pin(
    params: Path, recipe: Document, before: Document, revision: str | None, lines: list[str] | None
) -> tuple[list[str] | None, str]:
    """Put the given commit into the lines of base.revision, or keep the one that params.yaml has of this model.

    Returns:
        The lines, and how to get the commit as long as there is none.

    Raises:
        click.ClickException: the given revision is no full commit hash, or the recipe needs none.
    """
    name = value(recipe, ("base", "id"))
    if not name:
        if revision:
            raise click.ClickException(f"--revision: {recipe.path} names no model of the hub; leave it out")
        return lines, ""
    chosen = revision or (value(before, REVISION) if value(before, ("base", "id")) == name else None)
    try:
        base.pinned(params, base.BaseParams.model_construct(id=name, revision=chosen))
    except click.ClickException as error:
        if revision:
            raise click.ClickException(error.message.replace(f"{params}: base.revision", "--revision")) from None
        return lines, error.message.rpartition("; ")[2]
    return [re.sub(r"(revision:\s*)null", rf"\g<1>{chosen}", line) for line in lines or []], ""


def value(document: Document, key: Key) -> Any:
    """Give a key's value, None where there is no such key."""
    return document.keys[key].value if key in document.keys else None


def shown(document: Document, key: Key) -> str:
    """Give a key's value for the terminal, on one line."""
    if key not in document.keys:
        return "(not set)"
    found = document.keys[key].value
    if isinstance(found, dict):  # a gate: its reason is read in the file
        found = {name: one for name, one in found.items() if name != "reason"}
    text = found if isinstance(found, str) and found.isprintable() else json.dumps(found, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def guess(name: str, known: Any) -> str:
    """Give the known name that is meant, if one is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


if __name__ == "__main__":
    main()
