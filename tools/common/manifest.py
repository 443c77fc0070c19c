"""Manifest: rows of data/prepared/manifest.parquet by name or content hash."""

import difflib
import re
from pathlib import Path
from typing import Any

import click

from stages.common import raw

FILE = "data/prepared/manifest.parquet"

Record = dict[str, Any]


def read(manifest: Path, filters: Any) -> list[Record]:
    """Read the rows that pass a filter, from the row groups that may hold some."""
    from pyarrow import parquet

    return parquet.read_table(manifest, filters=filters).to_pylist()


def row_id(record: Record) -> str:
    """Give a row's name: its file in data/raw and its line."""
    return f"{record['file']}:{record['line']}"


def by_id(manifest: Path, text: str) -> Record | None:
    """Find a row by `FILE:LINE`, or give None where `text` is no such name.

    Raises:
        click.ClickException: the file has no row there, or there is no such file.
    """
    import pyarrow.compute as pc
    from pyarrow import parquet

    match = re.fullmatch(r"(?:data/raw/)?(.+):(\d{1,18})", text.strip())
    if not match:
        return None
    file, of_file = match[1], pc.field("file") == match[1]
    if found := read(manifest, of_file & (pc.field("line") == int(match[2]))):
        return found[0]
    lines = parquet.read_table(manifest, columns=["line"], filters=of_file)["line"]
    if len(lines):
        first, last = pc.min_max(lines).as_py().values()
        raise click.ClickException(f"{text}: no such row; those of {file} have the numbers {first} to {last}")
    names = sorted(parquet.read_table(manifest, columns=["file"])["file"].unique().to_pylist())
    near = difflib.get_close_matches(file, names)
    if near or file.lower().endswith(raw.SUFFIXES):
        raise click.ClickException(f"{text}: no such file in the manifest; try {', '.join(near or names[:3])}")
    return None


def by_hash(manifest: Path, text: str) -> list[Record]:
    """Find rows by at least 8 digits of their content hash: those that were kept, or else those that were not."""
    import pyarrow.compute as pc

    if not re.fullmatch(r"[0-9a-f]{8,32}", text.lower()):
        return []
    found = read(manifest, pc.starts_with(pc.field("content_hash"), text.lower()))
    return [record for record in found if record["fate"] != "dropped"] or found
