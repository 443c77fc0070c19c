"""Readers: the rows of one data file, one at a time, for every file type.

First step of preprocess for a row. Memory does not grow with the file. A row id is the file name with a number: in
JSON Lines, CSV and text the line where the row starts; in a JSON array or Parquet file the position, from 1.
"""

import codecs
import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import click

KINDS = (".json", ".jsonl", ".parquet", ".csv", ".txt")
SUFFIXES = tuple(kind + packed for packed in ("", ".gz", ".zst") for kind in KINDS)
CHUNK = 1 << 20  # bytes
LONG_NUMBER = re.compile(rb"\d{19}")
SPACE = re.compile(r"[ \t\r\n]*")


class RawRow(NamedTuple):
    """A row as it stands in its file. `drop_reason` is set where this row alone cannot be read."""

    line: int
    values: Any
    drop_reason: str = ""


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


def read_rows(path: Path, sample_by: str = "line") -> Iterator[RawRow]:
    """Read the rows of a file, one at a time.

    Args:
        path: a file with one of the SUFFIXES.
        sample_by: what a row of a text file is: `line`, `paragraph` (separated by blank lines) or `document`.

    Raises:
        click.ClickException: the file is empty or damaged. The message has the line.
    """
    import pyarrow as pa

    count = 0
    try:
        packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
        with cast(BinaryIO, pa.input_stream(str(path), compression=packed)) as stream:
            for row in _rows_of_kind(path, stream, sample_by):
                count += 1
                yield row
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:  # the last: a column name in Parquet
        if isinstance(error, FileNotFoundError | PermissionError):
            problem = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read; check its owner"
            raise click.ClickException(f"{path}: {problem}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise click.ClickException(f"{path}: damaged after {count} rows ({reason}); fetch the file again") from None
    if not count:
        raise click.ClickException(f"{path}: no rows; add rows or delete the file")


def _rows_of_kind(path: Path, stream: BinaryIO, sample_by: str) -> Iterator[RawRow]:
    kind = file_kind(path)
    if kind == ".parquet":
        yield from _parquet_rows(stream)
        return
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), CHUNK)
    start = buffered.peek(2)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise click.ClickException(f"{path}: encoded as UTF-16; save the file as UTF-8")
    if kind in (".json", ".jsonl"):
        array = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        yield from _json_array(path, buffered) if array else _json_lines(path, buffered)
    else:
        # A byte that is not UTF-8 becomes a lone surrogate: its row is dropped and counted, not the file.
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield from _csv_rows(path, text) if kind == ".csv" else _text_rows(text, sample_by)


def _json_lines(path: Path, stream: BinaryIO) -> Iterator[RawRow]:
    import orjson

    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            if line.count(b"{") > 1 and LONG_NUMBER.search(line):  # orjson rounds such a number in tool arguments
                raise ValueError
            yield RawRow(number, orjson.loads(line))
        except ValueError:  # not JSON for the strict parser: blank, invalid or only unusual
            text = line.decode("utf-8", "surrogateescape")
            if text.strip():
                yield RawRow(number, _parse_line(f"{path}:{number}", text))


def _parse_line(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.ClickException(f"{where}: not JSON ({error.msg}); fix the line") from None
    except (ValueError, RecursionError):
        raise click.ClickException(f"{where}: a number is too long or the nesting too deep; fix the line") from None


def _json_array(path: Path, stream: BinaryIO) -> Iterator[RawRow]:
    """Decode a JSON array element by element. The text in memory grows only to the longest element."""
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    scan = json.JSONDecoder().raw_decode
    text = decode(stream.read(CHUNK))
    at, line, number, between = text.index("[") + 1, 1, 0, False
    while True:
        at = _skip_space(text, at)
        problem = "Expecting ',' delimiter" if between else "Expecting value"
        if text[at : at + 1] == "]" and (between or not number):
            break
        if between and text[at : at + 1] == ",":
            at, between = at + 1, False
            continue
        place, hopeless = at, between and at < len(text)
        if not between:
            try:
                values, end = scan(text, at)
                if end < len(text):  # at the end of the text a number may be incomplete
                    number, at, between = number + 1, end, True
                    yield RawRow(number, values)
                    continue
            except json.JSONDecodeError as error:
                problem, place = error.msg, error.pos
                hopeless = place < len(text) - 16 and not problem.startswith("Unterminated string")
            except (ValueError, RecursionError):
                where = f"{path}: row {number + 1}"
                raise click.ClickException(
                    f"{where}: a number is too long or the nesting too deep; fix the row"
                ) from None
        more = b"" if hopeless else stream.read(max(CHUNK, len(text) - at))
        if not more:
            place = line + text.count("\n", 0, place)
            raise click.ClickException(f"{path}:{place}: not JSON ({problem}); fix the line")
        line += text.count("\n", 0, at)
        text, at = text[at:] + decode(more), 0
    if text[at + 1 :].strip() or stream.read().strip():
        raise click.ClickException(f"{path}: text after the closing bracket of the array; delete it")


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _csv_rows(path: Path, text: io.TextIOWrapper) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text, strict=True)
    line = 1
    try:
        columns = next(filter(None, reader), [])  # the first line that is not blank
        if len(set(columns)) < len(columns):
            raise click.ClickException(f"{path}:{reader.line_num}: two columns have the same name; rename one")
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            if len(cells) == len(columns):
                yield RawRow(line, dict(zip(columns, cells, strict=True)))
            elif cells:
                yield RawRow(line, None, "wrong_type")
    except csv.Error as error:
        raise click.ClickException(f"{path}:{line}: not CSV ({error}); fix the line") from None


def _text_rows(text: io.TextIOWrapper, sample_by: str) -> Iterator[RawRow]:
    start, gathered = 1, ""
    for number, line in enumerate(text, start=1):
        blank = not line.strip()
        if gathered and (sample_by == "line" or (blank and sample_by == "paragraph")):
            yield RawRow(start, {"text": gathered.rstrip()})
            gathered = ""
        if not gathered:
            start = number
        if gathered or not blank:
            gathered += line
    if gathered:
        yield RawRow(start, {"text": gathered.rstrip()})


def _parquet_rows(stream: BinaryIO) -> Iterator[RawRow]:
    from pyarrow import parquet

    with tempfile.TemporaryFile() as file:  # Parquet is read from its end, and a compressed stream cannot seek
        if not stream.seekable():
            while chunk := stream.read(CHUNK):
                file.write(chunk)
        number = 0
        for batch in parquet.ParquetFile(stream if stream.seekable() else file).iter_batches(1000):
            for index in range(batch.num_rows):
                number += 1
                try:
                    yield RawRow(number, batch.slice(index, 1).to_pylist()[0])
                except UnicodeDecodeError:
                    yield RawRow(number, None, "invalid_unicode")
                except (OverflowError, ValueError):  # a date outside Python's range, two fields of one name
                    yield RawRow(number, None, "wrong_type")
