"""Readers: the rows of one data file, one at a time, for every file type.

First step of preprocess for a row. Memory grows with the longest row, which limits.py bounds, not with the file; a
JSON file that is one object is read as one row. A row id is the file name with a number: in JSON Lines, CSV and text
the line where the row starts; in other JSON and in Parquet the position, from 1.
"""

import codecs
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from stages.preprocess.csv_rows import csv_rows
from stages.preprocess.json_rows import json_rows
from stages.preprocess.limits import Unpacked, bounded_lines, row_bytes, too_long
from stages.preprocess.opening import open_file
from stages.preprocess.params import FileParams
from stages.preprocess.parquet_rows import parquet_rows
from stages.preprocess.row_values import RawRow

KINDS = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt")
SUFFIXES = tuple(kind + packed for packed in ("", ".gz", ".zst") for kind in KINDS)
CHUNK = 1 << 20  # bytes
# What a file starts with in an encoding other than UTF-8. The last two have no mark: their first character is ASCII.
ENCODINGS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
DEFAULT = FileParams()


def file_kind(path: Path) -> str:
    """Return the file type by the name, such as `.jsonl` for rows.jsonl.gz.

    Raises:
        click.ClickException: unsupported file type.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    if not suffix:
        known = f"{', '.join(KINDS)}, each also .gz or .zst"
        raise click.ClickException(f"{path}: not one of {known}; convert the file or move it away")
    return f".{suffix.split('.')[1]}"


def read_rows(
    path: Path, params: FileParams = DEFAULT, unread: Counter[str] | None = None, folder: Path | None = None
) -> Iterator[RawRow]:
    """Read the rows of a file, one at a time.

    Args:
        path: a file with one of the SUFFIXES.
        params: how to read it.
        unread: gets the keys of a JSON object that stand beside its rows.
        folder: where the file has to be, see opening.py; None: anywhere.

    Raises:
        click.ClickException: the file is empty, damaged, no file or elsewhere, or it or a row is too long. The
            message has the line.
    """
    import pyarrow as pa

    count = 0
    try:
        packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
        with open_file(path, folder) as file:
            stream = cast(BinaryIO, pa.input_stream(file, compression=packed) if packed else file)
            for row in _rows_of_kind(path, stream, params, Counter() if unread is None else unread):
                count += 1
                yield row
    except UnicodeDecodeError as error:  # in Parquet: a column name
        if file_kind(path) == ".parquet":
            raise click.ClickException(f"{path}: damaged: {error.reason} in a column name; fetch it again") from None
        encoding = params.encoding or error.encoding
        raise click.ClickException(
            f"{path}: not {encoding} ({error.reason}) after {count} rows; set its encoding in preprocess.files"
        ) from None
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            problem = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read; check its owner"
            raise click.ClickException(f"{path}: {problem}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise click.ClickException(f"{path}: damaged after {count} rows ({reason}); fetch the file again") from None
    if not count:
        raise click.ClickException(f"{path}: no rows; add rows or delete the file")


def _rows_of_kind(path: Path, stream: BinaryIO, params: FileParams, unread: Counter[str]) -> Iterator[RawRow]:
    kind = file_kind(path)
    if path.name.lower().endswith((".gz", ".zst")):
        stream = cast(BinaryIO, Unpacked(path, stream, params))
    if kind == ".parquet":
        yield from parquet_rows(path, stream, params)
        return
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), CHUNK)
    with _as_utf8(buffered, params.encoding) as read:
        if kind in (".json", ".jsonl"):
            yield from json_rows(path, read, params, unread)
            return
        # A byte that is not UTF-8 becomes a lone surrogate: its row is dropped and counted, not the file.
        text = io.TextIOWrapper(read, encoding="utf-8-sig", errors="surrogateescape", newline="")
        if kind == ".txt":
            yield from _text_rows(path, text, params)
        else:
            yield from csv_rows(path, text, params, params.delimiter or ("\t" if kind == ".tsv" else None))


def _as_utf8(stream: "io.BufferedReader[Any]", encoding: str | None) -> "io.BufferedReader[Any]":
    """Return a stream of UTF-8. A file in another encoding is written again, to a temporary file."""
    start = stream.peek(4)
    if encoding is None:
        encoding = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), None)
    if encoding is None and len(start) > 3 and start[0] and not start[1] and start[2] and not start[3]:
        encoding = "utf-16-le"
    if encoding is None and len(start) > 3 and not start[0] and start[1] and not start[2] and start[3]:
        encoding = "utf-16-be"
    if encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii"):
        return stream
    decoder = codecs.getincrementaldecoder(encoding)()
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    while chunk := stream.read(CHUNK):
        file.write(decoder.decode(chunk).encode("utf-8", "surrogatepass"))
    file.write(decoder.decode(b"", True).encode("utf-8", "surrogatepass"))
    file.seek(0)
    return cast("io.BufferedReader[Any]", file)


def _text_rows(path: Path, text: io.TextIOWrapper, params: FileParams) -> Iterator[RawRow]:
    start, gathered, sample_by = 1, "", params.sample_by
    for number, line in enumerate(bounded_lines(path, text, params), start=1):
        blank = not line.strip()
        if gathered and (sample_by == "line" or (blank and sample_by == "paragraph")):
            yield RawRow(start, {"text": gathered.rstrip()})
            gathered = ""
        if not gathered:
            start = number
        if gathered or not blank:
            gathered += line
            if len(gathered) > row_bytes(params):
                raise too_long(path, f":{start}", params)
    if gathered:
        yield RawRow(start, {"text": gathered.rstrip()})
