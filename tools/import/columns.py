"""Columns of an imported file: whether preprocess can read it, and the names that a user gives, in params.yaml."""

import glob
import io
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages.common.params import load_params
from stages.preprocess.params import FileParams, PreprocessParams
from stages.preprocess.sources import UnknownFormat, describe
from tools.common.project import DEFAULTS, PARAMS
from tools.recipe.overlays import read_document, replace_lines

KEY = ("preprocess", "files")


def parse_columns(text: str | None) -> dict[str, str]:
    """Parse columns such as `prompt=frage,completion=antwort`: our names, and the file's.

    Raises:
        click.ClickException: not of this form.
    """
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    columns = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if len(columns) < len(pairs) or not all((*columns, *columns.values())):
        raise click.ClickException(f"--columns: {text!r}: write it as prompt=COLUMN,completion=COLUMN")
    return columns


def check_format(path: Path, name: str, columns: dict[str, str]) -> None:
    """Check that preprocess can read a file.

    Args:
        path: the file.
        name: its name in data/raw, to which the patterns of preprocess.files apply.
        columns: our column to the file's; empty: as params.yaml says, or as their own names say.

    Raises:
        click.ClickException: the columns are those of no format, or not those that were named.
    """
    patterns = load_params(PARAMS, "preprocess", PreprocessParams).files if PARAMS.exists() else {}
    given = {glob.escape(name): FileParams(columns=columns)} if columns else {}
    try:
        describe(0, path.parent, path, name, given | patterns)
    except UnknownFormat as error:
        example = ",".join(f"{ours}={column}" for ours, column in error.columns.items())
        raise click.ClickException(
            f"{error.problem}; say which is which with --columns {example}, or in preprocess.files, see docs/data.md"
        ) from None


def with_columns(name: str, columns: dict[str, str]) -> str:
    """Return the text of params.yaml with the columns of a file in preprocess.files. All other lines stay.

    Raises:
        click.ClickException: it has other settings for a file of that name, or is not as it should be.
    """
    document, pattern = read_document(PARAMS, read_document(DEFAULTS)), glob.escape(name)
    entry, setting = document.keys[KEY], {"columns": columns}
    known = entry.value
    if not isinstance(known, dict):
        raise click.ClickException(f"{PARAMS}: preprocess.files: must be settings by file, or {{}}")
    if pattern in known:
        if known[pattern] != setting:
            raise click.ClickException(
                f"{PARAMS}: preprocess.files: {pattern}: has other settings; change them there"
            )
        return "".join(document.lines)
    head, _, comment = entry.lines[0].partition("#")
    added = f"    {_on_one_line({pattern: setting})}\n"
    if head.strip() == "files:" and known:  # a block: its lines stay as they are
        lines = [*entry.lines, added]
    else:
        others = [f"    {_on_one_line({one: value})}\n" for one, value in known.items()]
        lines = [f"  files:  #{comment}" if comment else "  files:\n", *others, added]
    return replace_lines(document, {KEY: lines})


def _on_one_line(setting: dict[str, Any]) -> str:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = True, 100_000, False
    text = io.StringIO()
    yaml.dump(setting, text)
    return text.getvalue().strip()[1:-1]
