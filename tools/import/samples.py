"""Samples of a data file: a number of its rows, drawn uniformly, in their order, in constant memory."""

import json
import random
import re
from pathlib import Path
from typing import Any

import click

from stages.preprocess.readers import read_rows


def sample_size(text: str | None) -> int:
    """Parse a number of rows such as 32 or 2k; None is 0.

    Raises:
        click.ClickException: not such a number.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,9})(k?)", text or "")
    if text and not match:
        raise click.ClickException(f"--limit: {text!r} is not a number of rows, such as 32 or 2k")
    return int(match[1]) * (1000 if match[2] else 1) if match else 0


def count_rows(path: Path) -> tuple[int, int]:
    """Count the rows of a data file.

    Returns:
        All rows, and those that are not readable.

    Raises:
        click.ClickException: the file is not readable to its end.
    """
    rows = unreadable = 0
    for row in read_rows(path):
        rows += 1
        unreadable += bool(row.drop_reason)
    return rows, unreadable


def draw_sample(path: Path, out: Path, readable: int, wanted: int, seed: int) -> Path:
    """Write a sample of a data file as JSON Lines. Every sample of that size is equally likely.

    Args:
        path: the data file.
        out: the file to write.
        readable: number of readable rows in `path`.
        wanted: number of rows to draw.
        seed: the same seed draws the same rows.

    Returns:
        `out`.

    Raises:
        click.ClickException: the file has too few rows, or JSON cannot hold a row.
    """
    if wanted > readable:
        raise click.ClickException(f"{path}: {readable} rows to draw from, fewer than --limit {wanted}; leave it out")
    # Knuth, The Art of Computer Programming 3.4.2, algorithm S. Random.random gives the same numbers in every Python.
    chance = random.Random(seed).random
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for row in read_rows(path):
            if row.drop_reason:
                continue
            if chance() * readable < wanted:
                file.write(_json(f"{path}:{row.line}", row.values) + "\n")
                wanted -= 1
            readable -= 1
    return out


def _json(where: str, values: Any) -> str:
    try:
        text = json.dumps(values, ensure_ascii=False)
    except TypeError as error:  # Parquet has bytes and dates
        raise click.ClickException(f"{where}: {error}; import the file without --limit") from None
    # A lone surrogate has an escape in JSON, but no UTF-8. The preprocess stage finds it and drops the row.
    return text if text.isascii() or _is_unicode(text) else json.dumps(values)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
