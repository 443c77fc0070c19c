"""Manifest: one record per raw row in data/prepared/manifest.parquet, found by row id or content hash."""

import difflib
import re
from pathlib import Path
from typing import Any

import click

from stages.preprocess.readers import SUFFIXES

MANIFEST = "data/prepared/manifest.parquet"

Record = dict[str, Any]


def read_records(manifest: Path, filters: Any) -> list[Record]:
    """Read the records that pass a filter (a pyarrow expression), from the row groups that may hold some.

    Raises:
        click.ClickException: a run before v0.1.0 wrote the manifest, with other names of columns.
    """
    from pyarrow import parquet

    if "outcome" not in parquet.read_schema(manifest).names:
        raise click.ClickException(
            f"{manifest}: written before v0.1.0; check that revision out, and run `make trace` there"
        )
    return parquet.read_table(manifest, filters=filters).to_pylist()


def row_id(record: Record) -> str:
    """Return a row's id: its file in data/raw and its line, such as `skills.jsonl:17`."""
    return f"{record['file']}:{record['line']}"


def find_by_id(manifest: Path, text: str) -> Record | None:
    """Find the record of a row by its id.

    Returns:
        The record; None where `text` is not a row id.

    Raises:
        click.ClickException: the file has no row there, or there is no such file.
    """
    import pyarrow.compute as pc
    from pyarrow import parquet

    match = re.fullmatch(r"(?:data/raw/)?(.+):(\d{1,18})", text.strip())
    if not match:
        return None
    file, of_file = match[1], pc.field("file") == match[1]
    if found := read_records(manifest, of_file & (pc.field("line") == int(match[2]))):
        return found[0]
    lines = parquet.read_table(manifest, columns=["line"], filters=of_file)["line"]
    if len(lines):
        first, last = pc.min_max(lines).as_py().values()
        raise click.ClickException(f"{text}: no such row; {file} has rows {first} to {last}")
    names = sorted(parquet.read_table(manifest, columns=["file"])["file"].unique().to_pylist())
    near = difflib.get_close_matches(file, names)
    if near or file.lower().endswith(SUFFIXES):
        raise click.ClickException(f"{text}: no such file in the manifest; try {', '.join(near or names[:3])}")
    return None


def find_by_hash(manifest: Path, text: str) -> list[Record]:
    """List the rows whose content hash starts with at least 8 digits: the kept ones, or else the dropped ones."""
    import pyarrow.compute as pc

    if not re.fullmatch(r"[0-9a-f]{8,32}", text.lower()):
        return []
    found = read_records(manifest, pc.starts_with(pc.field("content_hash"), text.lower()))
    return [record for record in found if record["outcome"] != "dropped"] or found
