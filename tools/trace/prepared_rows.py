"""Prepared rows: the text of rows in train.jsonl and val.jsonl, found by position or by words."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from stages.preprocess.row_values import strings


def read_row(path: Path, position: int) -> dict[str, Any]:
    """Read the row at a position, counted from 0.

    Raises:
        click.ClickException: the file has fewer rows.
    """
    with path.open("rb") as lines:
        line = next(itertools.islice(lines, position, None), None)
    if line is None:
        raise click.ClickException(f"{path}: fewer rows than the manifest beside it; run `dvc repro preprocess`")
    return orjson.loads(line)


def find_rows(path: Path, words: list[str], limit: int) -> list[int]:
    """Find the first rows that contain every word, in upper or lower case.

    Args:
        path: a file of prepared rows.
        words: words in lower case.
        limit: number of rows to find at most.

    Returns:
        Their positions, counted from 0.
    """
    # Letters and digits are written unescaped, so most lines need no parsing.
    plain = [word.encode() for word in words if word.isascii() and word.isalnum()]
    found: list[int] = []
    with path.open("rb") as lines:
        for position, line in enumerate(lines):
            if len(found) == limit:
                break
            low = line.lower()
            if all(word in low for word in plain):
                content = "\n".join(text for _, text in messages(orjson.loads(line))).lower()
                if all(word in content for word in words):
                    found.append(position)
    return found


def messages(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield role and text of each message of a row; plain text has the role `text`."""
    if "text" in row:
        yield "text", row["text"]
    for message in row.get("messages", []):
        yield message["role"], " ".join(strings([message["content"], message.get("tool_calls")])).strip()
