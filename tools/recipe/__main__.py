"""Write a recipe, the complete settings for one model, into params.yaml; without NAME, list the recipes.

A recipe holds the keys that differ from the defaults, each with its reason. Its lines replace the lines of the same
keys in params.yaml. Keys that only other recipes set get their defaults again, and all other lines stay as you wrote
them. The recipe `tiny` holds every default. Run it with `make recipe NAME=qwen2.5-0.5b REVISION=...`, or with
`python -m tools.recipe`.
"""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from stages.base import hub
from stages.common import files
from tools.recipe.overlays import OPEN, Document, Key, read_document, replace_lines

DEFAULTS = "tiny"
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
        list_recipes(found)
        return
    if name not in found:
        raise click.ClickException(f"{name}: no such recipe{guess(name, found)} (`make recipe` lists them)")
    defaults = read_document(found[DEFAULTS])
    documents = {known: read_document(path, defaults) for known, path in found.items()}
    refuse_unknown(documents[name], defaults)
    before = read_document(params, defaults)

    # Work
    wanted = changes(name, documents, before)
    wanted[REVISION], missing = pin(documents[name], before, revision, wanted[REVISION])
    text = replace_lines(before, wanted)

    # Outputs
    if text == "".join(before.lines):
        click.echo(f"{params}: already holds recipe {name}")
    else:
        files.write_texts({params: text})
        after = read_document(params, defaults)
        click.echo(f"{params}: recipe {name}")
        for key in after.keys | before.keys:
            old, new = shown(before, key), shown(after, key)
            if old != new:
                click.echo(f"  {'.'.join(key)}: {old} -> {new}")
    if missing:
        click.echo(f"base.revision is not set: {missing}, then run `make recipe NAME={name} REVISION=...`")
    else:
        click.echo(f"next: `git diff {params}`, then `make repro`")


def list_recipes(found: dict[str, Path]) -> None:
    """Print the name of every recipe and the comment in its first line."""
    width = max(map(len, found))
    for name, path in sorted(found.items()):
        click.echo(f"{name:{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def refuse_unknown(recipe: Document, defaults: Document) -> None:
    """Fail when a recipe sets a key that the defaults do not have."""
    for key in recipe.keys:
        if key not in defaults.keys and key[:-1] not in OPEN:
            near = guess(".".join(key), [".".join(known) for known in defaults.keys])
            raise click.ClickException(f"{recipe.path}: {'.'.join(key)}: unknown key{near}")


def changes(name: str, documents: dict[str, Document], params: Document) -> dict[Key, list[str] | None]:
    """List the keys that a recipe decides about.

    Args:
        name: the recipe.
        documents: every recipe by name.
        params: params.yaml.

    Returns:
        The new lines of each key; None for a key that params.yaml must not have.
    """
    defaults, recipe = documents[DEFAULTS], documents[name]
    if name == DEFAULTS:
        decided = [*defaults.keys, *(key for key in params.keys if key not in defaults.keys and key[:-1] in OPEN)]
    else:
        others = [key for other, document in documents.items() if other != DEFAULTS for key in document.keys]
        decided = [REVISION, *(key for key in others if key in defaults.keys or key[:-1] in OPEN)]
    sources = [recipe.keys, defaults.keys]
    return {key: next((keys[key].lines for keys in sources if key in keys), None) for key in decided}


def pin(
    recipe: Document, before: Document, revision: str | None, lines: list[str] | None
) -> tuple[list[str] | None, str]:
    """Set the model's commit: the given one, that of params.yaml for the same model, or that of the recipe.

    Args:
        recipe: the recipe.
        before: params.yaml.
        revision: the value of --revision.
        lines: the lines of base.revision, with the recipe's commit or null.

    Returns:
        The lines with the commit, and the next step when there is none yet, else "".

    Raises:
        click.ClickException: --revision is not a full commit hash, or the recipe needs none.
    """
    name = value(recipe, ("base", "id"))
    if not name:
        if revision:
            raise click.ClickException(f"--revision: {recipe.path} names no model of the hub; leave it out")
        return lines, ""
    if revision and not hub.is_commit(revision):
        raise click.ClickException(f"--revision: {hub.not_a_commit(name, revision)}")
    same = value(before, ("base", "id")) == name and hub.is_commit(value(before, REVISION))
    commit = revision or value(before if same else recipe, REVISION)
    if not hub.is_commit(commit):
        return lines, hub.find_commit(name)
    return [re.sub(r"(revision:\s*)\w+", rf"\g<1>{commit}", line) for line in lines or []], ""


def value(document: Document, key: Key) -> Any:
    """Return a key's value, None if there is no such key."""
    return document.keys[key].value if key in document.keys else None


def shown(document: Document, key: Key) -> str:
    """Format a key's value for the terminal, on one line."""
    if key not in document.keys:
        return "(not set)"
    found = document.keys[key].value
    if isinstance(found, dict):  # a gate: its reason is in the file
        found = {name: one for name, one in found.items() if name != "reason"}
    text = found if isinstance(found, str) and found.isprintable() else json.dumps(found, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def guess(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most similar, "" if none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


if __name__ == "__main__":
    main()
