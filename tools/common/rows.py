"""Rows: the text of prepared rows (train.jsonl and the like), by place and by the words in it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from stages.common import checks


def read(path: Path, position: int) -> dict[str, Any]:
    """Read the row at a place, from 0.

    Raises:
        click.ClickException: the file has no such place.
    """
    with path.open("rb") as lines:
        line = next(itertools.islice(lines, position, None), None)
    if line is None:
        raise click.ClickException(f"{path}: fewer rows than the manifest beside it; run `dvc repro preprocess`")
    return orjson.loads(line)


def search(path: Path, words: list[str], limit: int) -> list[int]:
    """Find the places of the first rows that hold every word, whatever the case.

    Args:
        path: a file of prepared rows.
        words: in lower case.
        limit: how many rows to find at most.
    """
    # Letters and digits stand in JSON as they are, so most lines need no parsing.
    plain = [word.encode() for word in words if word.isascii() and word.isalnum()]
    found: list[int] = []
    with path.open("rb") as lines:
        for position, line in enumerate(lines):
            if len(found) == limit:
                break
            low = line.lower()
            if all(word in low for word in plain):
                said = "\n".join(text for _, text in spoken(orjson.loads(line))).lower()
                if all(word in said for word in words):
                    found.append(position)
    return found


def spoken(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what a row says, part by part, each with who says it."""
    if "text" in row:
        yield "text", row["text"]
    for message in row.get("messages", []):
        yield message["role"], " ".join(checks.strings([message["content"], message.get("tool_calls")])).strip()


def visible(text: str) -> str:
    """Spell out characters that would not show, or would command the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
