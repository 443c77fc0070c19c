"""Samples of a data file: so many of its rows, drawn evenly, in their order, in flat memory."""

import json
import random
import re
from pathlib import Path
from typing import Any

import click

from stages.common import raw


def size(text: str | None) -> int:
    """Read a number of rows such as 32 or 2k; 0 where none is given.

    Raises:
        click.ClickException: it is no such number.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,9})(k?)", text or "")
    if text and not match:
        raise click.ClickException(f"--limit: {text!r} is no number of rows, such as 32 or 2k")
    return int(match[1]) * (1000 if match[2] else 1) if match else 0


def count(path: Path) -> tuple[int, int]:
    """Count the rows of a data file, and those among them that cannot be read.

    Raises:
        click.ClickException: the file cannot be read to its end.
    """
    rows = flawed = 0
    for row in raw.rows(path):
        rows += 1
        flawed += bool(row.flaw)
    return rows, flawed


def draw(path: Path, out: Path, readable: int, wanted: int, seed: int) -> Path:
    """Write `wanted` of the `readable` rows of a data file as JSON Lines, every choice as likely.

    Raises:
        click.ClickException: there are not so many rows, or JSON cannot hold one of them.
    """
    if wanted > readable:
        raise click.ClickException(f"{path}: {readable} rows to draw from, fewer than --limit {wanted}; leave it out")
    # Knuth's algorithm S, on the one method of Random whose numbers Python promises to keep.
    chance = random.Random(seed).random
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for row in raw.rows(path):
            if row.flaw:
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
    # Half a character has no UTF-8, but an escape; the preprocess stage finds it there and drops the row.
    return text if text.isascii() or _is_unicode(text) else json.dumps(values)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
