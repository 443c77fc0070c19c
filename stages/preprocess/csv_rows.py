"""CSV rows: cells between commas, semicolons, tabs or bars, with the names of the columns in the first line."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from stages.preprocess.row_values import RawRow

OTHERS = (";", "\t", "|")
SEPARATOR = re.compile(r"sep=(.)\s*")  # the line that Excel writes first


def csv_rows(path: Path, text: io.TextIOWrapper, delimiter: str | None) -> Iterator[RawRow]:
    """Read the rows of a CSV file.

    Args:
        path: the file, for messages.
        text: its content.
        delimiter: what is between cells; None: a first line `sep=;` says it, or the only one of `;`, tab and `|` in a
            header without a comma.

    Raises:
        click.ClickException: a quote that does not end, or two columns of one name.
    """
    csv.field_size_limit(1 << 30)
    skipped, head = 0, []
    for first in text:
        head = [first]
        if match := SEPARATOR.fullmatch(first):
            delimiter, head = delimiter or match[1], []
        elif not first.strip():
            head = []
        skipped += not head
        if head:
            break
    reader = csv.reader(chain(head, text), strict=True, delimiter=delimiter or find_delimiter("".join(head)))
    line = 1 + skipped
    try:
        columns = next(filter(None, reader), [])
        if len(set(columns)) < len(columns):
            raise click.ClickException(
                f"{path}:{reader.line_num + skipped}: two columns have the same name; rename one"
            )
        while True:
            line = reader.line_num + 1 + skipped
            cells = next(reader, None)
            if cells is None:
                return
            if len(cells) == len(columns):
                yield RawRow(line, dict(zip(columns, cells, strict=True)))
            elif cells:
                yield RawRow(line, None, "wrong_type", f"{len(cells)} cells under {len(columns)} columns")
    except csv.Error as error:
        raise click.ClickException(f"{path}:{line}: not CSV ({error}); fix the line") from None


def find_delimiter(header: str) -> str:
    """Find what is between the names of the columns: a comma if there is one, else the only other candidate."""
    bare = re.sub(r'"[^"]*"', "", header)
    found = [other for other in OTHERS if other in bare]
    return found[0] if len(found) == 1 and "," not in bare else ","
