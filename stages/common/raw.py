"""Raw rows: the files of data/raw as a stream of rows, whatever their kind, in flat memory.

A row is known by its file and line: the line it starts on in JSON Lines, CSV and text, its place (from 1) in a JSON
array or Parquet file.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import click

from stages.common import readers
from stages.common.readers import RawRow

KINDS = (".json", ".jsonl", ".parquet", ".csv", ".txt")
SUFFIXES = tuple(kind + packed for packed in ("", ".gz", ".zst") for kind in KINDS)


def paths(folder: Path, *, needed: bool = True) -> list[Path]:
    """List the data files of `folder`, sorted. Hidden files, `*.dvc` files and README.md are no data.

    Raises:
        click.ClickException: no folder, no file in it, or a file of another kind or with an unprintable name.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    found = [path for path in files if path.name[0] != "." and path.suffix != ".dvc" and path.name != "README.md"]
    if needed and not found:
        raise click.ClickException(f"{folder}: no files; put {', '.join(KINDS)} files in it")
    for path in found:
        if not path.name.isprintable():
            raise click.ClickException(f"{folder}: {path.name!a}: a name that no table can hold; rename the file")
        kind(path)
    return found


def kind(path: Path) -> str:
    """Give the kind of a data file, such as `.jsonl` for rows.jsonl.gz.

    Raises:
        click.ClickException: none that is read here.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    if not suffix:
        known = f"{', '.join(KINDS)}, each also .gz or .zst"
        raise click.ClickException(f"{path}: not one of {known}; convert it or move it away")
    return f".{suffix.split('.')[1]}"


def rows(path: Path, sample_by: str = "line") -> Iterator[RawRow]:
    """Read the rows of one file, one at a time.

    Args:
        path: a file of one of the SUFFIXES.
        sample_by: what makes a row of a text file: `line`, `paragraph` (blank lines between) or `document`.

    Raises:
        click.ClickException: the file is empty or broken; names the line.
    """
    import pyarrow as pa

    count = 0
    try:
        packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
        with cast(BinaryIO, pa.input_stream(str(path), compression=packed)) as stream:
            for row in _of_kind(path, kind(path), stream, sample_by):
                count += 1
                yield row
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:  # the last: a column's name
        if isinstance(error, FileNotFoundError | PermissionError):
            problem = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read; check its owner"
            raise click.ClickException(f"{path}: {problem}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise click.ClickException(f"{path}: broken after {count} rows ({reason}); fetch the file anew") from None
    if not count:
        raise click.ClickException(f"{path}: no rows; fill it or delete it")


def _of_kind(path: Path, suffix: str, stream: BinaryIO, sample_by: str) -> Iterator[RawRow]:
    if suffix == ".parquet":
        yield from readers.parquet_rows(stream)
        return
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), readers.CHUNK)
    start = buffered.peek(2)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise click.ClickException(f"{path}: UTF-16; save the file as UTF-8")
    if suffix in (".json", ".jsonl"):
        array = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        yield from readers.json_array(path, buffered) if array else readers.json_lines(path, buffered)
    else:
        # A byte that is no UTF-8 becomes a lone surrogate: its row is dropped and counted, not the file.
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield from readers.csv_rows(path, text) if suffix == ".csv" else readers.text_rows(text, sample_by)
