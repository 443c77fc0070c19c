"""CSV rows: cells between commas, semicolons, tabs or bars, with the names of the columns in the first line."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from stages.preprocess.limits import bounded_lines, row_bytes, too_long
from stages.preprocess.params import FileParams
from stages.preprocess.row_values import RawRow

OTHERS = (";", "\t", "|")
SEPARATOR = re.compile(r"sep=(.)\s*")  # the line that Excel writes first


def csv_rows(path: Path, text: io.TextIOWrapper, params: FileParams, delimiter: str | None) -> Iterator[RawRow]:
    """Read the rows of a CSV file.

    Args:
        path: the file, for messages.
        text: its content.
        params: how long a row may be.
        delimiter: what is between cells; None: a first line `sep=;` says it, or the only one of `;`, tab and `|` in a
            header without a comma.

    Raises:
        click.ClickException: a quote that does not end, two columns of one name, or a row that is too long.
    """
    csv.field_size_limit(sys.maxsize)  # a row is measured as a whole
    limit, length, line = row_bytes(params), 0, 1

    def measured() -> Iterator[str]:
        """Yield the lines; those of one row together may not be too long."""
        nonlocal length
        for part in bounded_lines(path, text, params):
            length += len(part)
            if length > limit:
                raise too_long(path, f":{line}", params)
            yield part

    lines = measured()
    skipped, head = 0, []
    for first in lines:
        head = [first]
        if match := SEPARATOR.fullmatch(first):
            delimiter, head = delimiter or match[1], []
        elif not first.strip():
            head = []
        skipped += not head
        if head:
            break
    reader = csv.reader(chain(head, lines), strict=True, delimiter=delimiter or find_delimiter("".join(head)))
    line = 1 + skipped
    try:
        columns = next(filter(None, reader), [])
        if len(set(columns)) < len(columns):
            raise click.ClickException(
                f"{path}:{reader.line_num + skipped}: two columns have the same name; rename one"
            )
        while True:
            line, length = reader.line_num + 1 + skipped, 0
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
