"""Overlays: a settings file as lines by key, so that a recipe replaces the lines of its keys and no other byte."""

from pathlib import Path
from typing import Any, NamedTuple

import click
from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, ScalarNode

from stages.common.params import read_yaml

Key = tuple[str, ...]
# Sections that go to a library unchanged, so a recipe or a user may set keys that the defaults do not name.
OPEN: tuple[Key, ...] = (("train", "lora"), ("train", "sft"))


class Entry(NamedTuple):
    """A key: its value, its first line and column (from 0), its lines with comments; a section has one line."""

    value: Any
    start: int
    column: int
    lines: list[str]


class Document(NamedTuple):
    """A settings file: its lines, its sections (blocks of keys) and the keys in them."""

    path: Path
    lines: list[str]
    sections: dict[Key, Entry]
    keys: dict[Key, Entry]


def read_document(path: Path, like: Document | None = None) -> Document:
    """Read a settings file.

    Args:
        path: the file.
        like: the file that says which keys are sections; without it, every block of keys is a section.

    Raises:
        click.ClickException: no such file, not YAML, or a section that is not a block of keys.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise click.ClickException(f"{path}: no settings; write keys and values as in params.yaml")
    text = path.read_text(encoding="utf-8")
    document = Document(path, text.splitlines(keepends=True), {}, {})
    _fill(document, values, YAML(typ="rt", pure=True).compose(text), (), like)
    return document


def replace_lines(document: Document, wanted: dict[Key, list[str] | None]) -> str:
    """Return the document's text with new lines for some keys.

    Args:
        document: the settings file.
        wanted: the new lines of each key; None deletes the key. A new key becomes the first of its section.

    Raises:
        click.ClickException: the section of a new key is missing.
    """
    edits: list[tuple[int, int, list[str]]] = []
    for key, lines in wanted.items():
        if key in document.keys:
            entry = document.keys[key]
            edits.append((entry.start, entry.start + len(entry.lines), _indented(lines or [], entry.column)))
        elif lines:
            if key[:-1] not in document.sections:
                place = f"{document.path}: {'.'.join(key[:-1])}"
                raise click.ClickException(f"{place}: missing section; copy it from recipes/tiny.yaml")
            section = document.sections[key[:-1]]
            beside = [entry.column for known, entry in document.keys.items() if known[:-1] == key[:-1]]
            column = beside[0] if beside else section.column + 2
            edits.append((section.start + 1, section.start + 1, _indented(lines, column)))
    result = list(document.lines)
    for start, stop, lines in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        result[start:stop] = lines
    return "".join(result)


def _fill(document: Document, values: dict[str, Any], node: MappingNode, above: Key, like: Document | None) -> None:
    for (name, child), value in zip(node.value, values.values(), strict=True):
        key = (*above, str(name.value))
        is_block = isinstance(child, MappingNode) and not child.flow_style
        is_section = key in like.sections if like else is_block
        if is_section and not is_block:
            raise click.ClickException(f"{document.path}: {'.'.join(key)}: write its keys below it, one per line")
        start, column = name.start_mark.line, name.start_mark.column
        stop = start + 1 if is_section else _stop(document.lines, start, column, child)
        (document.sections if is_section else document.keys)[key] = Entry(
            value, start, column, document.lines[start:stop]
        )
        if is_section:
            _fill(document, value, child, key, like)


def _stop(lines: list[str], start: int, column: int, value: ScalarNode | CollectionNode) -> int:
    """Find the line after a value. The parser ends a block at the next key: comments before that key belong to it."""
    stop = min(value.end_mark.line + 1, len(lines))
    is_block = value.style in ("|", ">") if isinstance(value, ScalarNode) else not value.flow_style
    if not is_block:
        return stop
    while stop > start + 1:
        text = lines[stop - 1].strip()
        indent = len(lines[stop - 1]) - len(lines[stop - 1].lstrip())
        if text and (indent > column or text.startswith("- ")):
            break
        stop -= 1
    return stop


def _indented(lines: list[str], column: int) -> list[str]:
    """Indent lines so that the first begins at `column`."""
    old = len(lines[0]) - len(lines[0].lstrip(" ")) if lines else 0
    moved = [" " * column + line[old:] if line.strip() else line for line in lines]
    return [line if line.endswith("\n") else line + "\n" for line in moved]
