"""JSON rows: JSON Lines, arrays, and objects that hold the rows under a key, by id or as columns, indented or not."""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click

from stages.preprocess.columns import detect_format
from stages.preprocess.limits import row_bytes, too_long
from stages.preprocess.params import FileParams
from stages.preprocess.row_values import RawRow, is_empty

CHUNK = 1 << 20  # bytes
LONG_NUMBER = re.compile(rb"\d{19}")
SPACE = re.compile(r"[ \t\r\n]*")


def json_rows(path: Path, stream: io.BufferedReader, params: FileParams, unread: Counter[str]) -> Iterator[RawRow]:
    """Read the rows of a JSON file.

    Args:
        path: the file, for messages.
        stream: its content.
        params: how to read it; `key` holds the rows, where the file is one object.
        unread: gets the other keys of that object.

    Raises:
        click.ClickException: not JSON, with the line, or an object in which it is not clear where the rows are.
    """
    start = stream.peek(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = start.partition(b"\n")
    several = _is_json(first.rstrip().removesuffix(b",")) and rest.lstrip()[:1] == start[:1]
    if start[:1] == b"[" and not several:
        yield from _json_values(path, stream, params, in_array=True)
        return
    indented = (
        start[:1] == b"{" and not several and bool(rest.strip()) and first.rstrip()[-1:] in (b"{", b"[", b",", b":")
    )
    rows = _json_values(path, stream, params, in_array=False) if indented else _json_lines(path, stream, params)
    one, another = next(rows, None), next(rows, None)
    if one and another is None and isinstance(one.values, dict):
        held = rows_in(one.values, params, unread, path)
        yield from (RawRow(number, row) for number, row in enumerate(held, start=1)) if held is not None else (one,)
    else:
        yield from chain(filter(None, (one, another)), rows)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(path: Path, stream: io.BufferedReader, params: FileParams) -> Iterator[RawRow]:
    import orjson

    limit = row_bytes(params)
    for number, line in enumerate(iter(partial(stream.readline, limit + 1), b""), start=1):
        if len(line) > limit:
            raise too_long(path, f":{number}", params)
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
    problem = ""
    while True:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            mended = without_trailing_comma(text, error.pos)
            problem = problem or error.msg
            if mended is None:
                raise click.ClickException(f"{where}: not JSON ({problem}); fix the line") from None
            text = mended
        except (ValueError, RecursionError):
            raise click.ClickException(
                f"{where}: a number is too long or the nesting too deep; fix the line"
            ) from None


def without_trailing_comma(text: str, at: int) -> str | None:
    """Replace the comma before a closing bracket, or before the end of the text, by a blank.

    Args:
        text: what a JSON parser refuses.
        at: where it does.

    Returns:
        The text, or None if no comma is the cause.
    """
    for end in (at, at + 1):  # Python 3.13 names the place of the comma
        before = text[:end].rstrip()
        if before.endswith(",") and text[end:].lstrip()[:1] in ("}", "]", ""):
            return f"{before[:-1]} {text[len(before) :]}"
    return None


def _json_values(path: Path, stream: io.BufferedReader, params: FileParams, *, in_array: bool) -> Iterator[RawRow]:
    """Decode the elements of an array, or values that follow each other, one by one.

    The text in memory grows only to the longest of them.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    scan = json.JSONDecoder().raw_decode
    text = decode(stream.read(CHUNK))
    at, line, number, between, ended = text.index("[") + 1 if in_array else 0, 1, 0, False, False

    def refuse(problem: str, place: int) -> click.ClickException:
        return click.ClickException(
            f"{path}:{line + text.count(chr(10), 0, place)}: not JSON ({problem}); fix the line"
        )

    while True:
        at = _skip_space(text, at)
        following = text[at : at + 1]
        if in_array and following == "]":  # after an element, or after a comma too many
            break
        if between and following == ",":
            at, between = at + 1, False
            continue
        if between and following and in_array:
            raise refuse("Expecting ',' delimiter", at)
        if ended and not following:
            if not in_array:
                return
            raise refuse("Expecting ',' delimiter" if between else "Expecting value", at)
        if following:
            try:
                values, end = scan(text, at)
                if end < len(text) or ended:  # at the end of the text a number may be incomplete
                    number, at, between = number + 1, end, True
                    yield RawRow(number, values)
                    continue
            except json.JSONDecodeError as error:
                if ended or (error.pos < len(text) - 16 and not error.msg.startswith("Unterminated string")):
                    mended = without_trailing_comma(text, error.pos)
                    if mended is None:
                        raise refuse(error.msg, error.pos) from None
                    text = mended
                    continue
            except (ValueError, RecursionError):
                where = f"{path}: row {number + 1}"
                raise click.ClickException(
                    f"{where}: a number is too long or the nesting too deep; fix the row"
                ) from None
        if len(text) - at > row_bytes(params):
            raise too_long(path, f": row {number + 1}", params)
        more = stream.read(max(CHUNK, min(len(text) - at, row_bytes(params))))
        ended = not more
        line += text.count("\n", 0, at)
        text, at = text[at:] + decode(more, ended), 0
    if text[at + 1 :].strip() or any(chunk.strip() for chunk in iter(partial(stream.read, CHUNK), b"")):
        raise click.ClickException(f"{path}: text after the closing bracket of the array; delete it")


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def rows_in(document: dict[str, Any], params: FileParams, unread: Counter[str], path: Path) -> list[Any] | None:
    """Find the rows in a file that is one JSON object: under a key, by id, or as columns.

    Args:
        document: the object.
        params: names the key, or the columns of a row.
        unread: gets the keys beside the rows.
        path: the file, for messages.

    Returns:
        The rows, or None where the object itself is a row.

    Raises:
        click.ClickException: the rows may be under several keys, or are not under the key that the params name.
    """
    where = f"preprocess.files: {path.name}: key"
    inner = document
    if params.key is not None:
        if not isinstance(document.get(params.key), list | dict):
            raise click.ClickException(
                f"{where}: {params.key}: no rows there; keys are {', '.join(sorted(document))}"
            )
        unread.update(key for key, value in document.items() if key != params.key and not is_empty(value))
        inner = document[params.key]
        if isinstance(inner, list):
            return inner
    elif isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):  # pandas' `split`
        return [_named(document["columns"], row) for row in document["data"]]
    columns = list(inner.values())
    if detect_format(inner, params.columns):
        if all(isinstance(column, list) and not any(isinstance(cell, dict) for cell in column) for column in columns):
            if len(set(map(len, columns))) == 1:
                return [dict(zip(inner, row, strict=True)) for row in zip(*columns, strict=True)]
        elif all(isinstance(column, dict) for column in columns) and len(set(map(tuple, columns))) == 1:
            return [{name: column[place] for name, column in inner.items()} for place in columns[0]]
        return None
    holding = [key for key, value in inner.items() if isinstance(value, list) and _are_rows(value)]
    if len(holding) > 1:
        raise click.ClickException(
            f"{path}: rows under the keys {', '.join(holding)}; name the one to read in preprocess.files, such as "
            f"{{'{path.name}': {{key: {holding[0]}}}}}"
        )
    if holding:
        unread.update(key for key, value in inner.items() if key != holding[0] and not is_empty(value))
        return list(inner[holding[0]])
    if all(isinstance(row, dict) and detect_format(row, params.columns) for row in columns):
        return columns
    inside = [key for key, value in inner.items() if isinstance(value, dict)]
    if len(inside) != 1:
        return None
    found = rows_in(inner[inside[0]], params.model_copy(update={"key": None}), unread, path)
    if found:
        unread.update(key for key, value in inner.items() if key != inside[0] and not is_empty(value))
    return found


def _named(names: list[Any], row: Any) -> Any:
    fits = isinstance(row, list) and len(row) == len(names)
    return dict(zip(names, row, strict=True)) if fits else row


def _are_rows(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict | list) for value in values)
