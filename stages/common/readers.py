"""Readers: one function per kind of data file, each a stream of rows in flat memory."""

import codecs
import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

CHUNK = 1 << 20
LONG = re.compile(rb"\d{19}")
SPACE = re.compile(r"[ \t\r\n]*")


class RawRow(NamedTuple):
    """One row as it stands in its file; `flaw` names why it could not be read while its neighbours could."""

    line: int
    values: Any
    flaw: str = ""


def parquet_rows(stream: BinaryIO) -> Iterator[RawRow]:
    from pyarrow import parquet

    with tempfile.TemporaryFile() as file:  # Parquet is read from its end, which a packed stream cannot seek to
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
                except (OverflowError, ValueError):  # a date that Python has not, two fields of one name
                    yield RawRow(number, None, "wrong_type")


def json_lines(path: Path, stream: BinaryIO) -> Iterator[RawRow]:
    import orjson

    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            if line.count(b"{") > 1 and LONG.search(line):  # orjson would round such a number in tool arguments
                raise ValueError
            yield RawRow(number, orjson.loads(line))
        except ValueError:  # no JSON to the strict parser: blank, broken, or only unusual
            text = line.decode("utf-8", "surrogateescape")
            if text.strip():
                yield RawRow(number, _loads(f"{path}:{number}", text))


def _loads(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.ClickException(f"{where}: not JSON ({error.msg}); mend the line") from None
    except (ValueError, RecursionError):
        raise click.ClickException(f"{where}: a number too long, or brackets too deep; mend the line") from None


def json_array(path: Path, stream: BinaryIO) -> Iterator[RawRow]:
    """Decode a JSON array element by element; the text in memory grows only to the longest element."""
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    scan = json.JSONDecoder().raw_decode
    text = decode(stream.read(CHUNK))
    at, line, number, between = text.index("[") + 1, 1, 0, False
    while True:
        at = _skip(text, at)
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
                if end < len(text):  # else a number may go on
                    number, at, between = number + 1, end, True
                    yield RawRow(number, values)
                    continue
            except json.JSONDecodeError as error:
                problem, place = error.msg, error.pos
                hopeless = place < len(text) - 16 and not problem.startswith("Unterminated string")
            except (ValueError, RecursionError):
                where = f"{path}: row {number + 1}"
                raise click.ClickException(
                    f"{where}: a number too long, or brackets too deep; mend the row"
                ) from None
        more = b"" if hopeless else stream.read(max(CHUNK, len(text) - at))
        if not more:
            place = line + text.count("\n", 0, place)
            raise click.ClickException(f"{path}:{place}: not JSON ({problem}); mend the line")
        line += text.count("\n", 0, at)
        text, at = text[at:] + decode(more), 0
    if text[at + 1 :].strip() or stream.read().strip():
        raise click.ClickException(f"{path}: text after the array's closing bracket; delete it")


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def csv_rows(path: Path, text: io.TextIOWrapper) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text, strict=True)
    line = 1
    try:
        columns = next(filter(None, reader), [])  # the first line that is not blank
        if len(set(columns)) < len(columns):
            raise click.ClickException(f"{path}:{reader.line_num}: a column name stands there twice; rename one")
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
        raise click.ClickException(f"{path}:{line}: not CSV ({error}); mend the line") from None


def text_rows(text: io.TextIOWrapper, sample_by: str) -> Iterator[RawRow]:
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
