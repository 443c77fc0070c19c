"""Raw rows: read the files of data/raw and turn each row into messages.

Two forms are read. Alpaca: `instruction`, `output`, optional `input`, `system` and `history`. Messages: `messages`, a
list of `{"role", "content"}`. A file holds a JSON array or JSON Lines.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

from stages.common import chat

SUFFIXES = (".json", ".jsonl")
SURROGATE = re.compile(r"[\ud800-\udfff]")
ROLES = ("system", "user", "assistant", "tool")


class RawRow(NamedTuple):
    """One row as it stands in a file; `where` is `file:line`, or `file: row N` in a JSON array."""

    where: str
    values: dict[str, Any]


def paths(folder: Path) -> list[Path]:
    """List the data files of `folder`, sorted. Hidden files and `*.dvc` files are no data.

    Raises:
        click.ClickException: no folder, or no file in it.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    found = [path for path in files if not path.name.startswith(".") and path.suffix != ".dvc"]
    if not found:
        raise click.ClickException(f"{folder}: no files; put .json or .jsonl files in it")
    return found


def read(folder: Path) -> list[RawRow]:
    """Read every row of every file in `folder`.

    Raises:
        click.ClickException: an empty file, a file of another kind, or text that is no JSON.
    """
    return [row for path in paths(folder) for row in read_file(path)]


def read_file(path: Path) -> list[RawRow]:
    """Read the rows of one file."""
    if path.suffix not in SUFFIXES:
        raise click.ClickException(f"{path}: not one of {', '.join(SUFFIXES)}; convert it or move it away")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise click.ClickException(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise click.ClickException(f"{path}: empty file; fill it or delete it")
    rows = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    if not rows:
        raise click.ClickException(f"{path}: no rows; fill it or delete it")
    escapes = re.search(r"\\u[dD][89a-fA-F]", text)  # of characters beyond U+FFFF, two by two
    for where, values in rows:
        if not isinstance(values, dict):
            raise click.ClickException(f"{where}: a row must be a JSON object, not {type(values).__name__}")
        if escapes and SURROGATE.search(json.dumps(values, ensure_ascii=False)):
            raise click.ClickException(f"{where}: half a character (an unpaired \\ud... escape); mend the row")
    return rows


def to_messages(row: RawRow) -> chat.Messages:
    """Turn a row of either form into messages that end with the assistant's answer.

    Raises:
        click.ClickException: neither form, a part of the wrong type, or roles out of order.
    """
    if "messages" in row.values:
        return _checked(row, row.values["messages"])
    if "instruction" not in row.values:
        keys = ", ".join(sorted(row.values)) or "none"
        raise click.ClickException(f"{row.where}: no `instruction` and no `messages` (keys: {keys})")
    if row.values.get("output") is None:
        raise click.ClickException(f'{row.where}: no answer ("output" is missing); add it or delete the row')
    parts = [row.values["instruction"], row.values.get("input") or "", row.values["output"]]
    for name, part in zip(("instruction", "input", "output"), parts, strict=True):
        if not isinstance(part, str):
            raise click.ClickException(f"{row.where}: `{name}` must be text, not {type(part).__name__}")
    instruction, extra, output = parts
    question = "\n\n".join(part for part in (instruction, extra) if part.strip())
    system = row.values.get("system") or ""
    turns = [*(row.values.get("history") or []), [question, output]]
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if not (isinstance(turn, list) and len(turn) == 2):
            raise click.ClickException(f"{row.where}: `history` must be a list of [question, answer] pairs")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return _checked(row, messages)


def content_hash(messages: chat.Messages) -> str:
    """Hash what a conversation says: the same messages give the same hash in every file and form."""
    return text_hash(json.dumps(messages, sort_keys=True, ensure_ascii=False))


def text_hash(text: str) -> str:
    """Hash a text's UTF-8 bytes with sha256."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _array(path: Path, text: str) -> list[RawRow]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.ClickException(f"{path}:{error.lineno}: not JSON ({error.msg}); mend the line") from None
    except (ValueError, RecursionError):
        raise click.ClickException(f"{path}: a number too long, or brackets too deep; mend the file") from None
    return [RawRow(f"{path}: row {number}", value) for number, value in enumerate(values, start=1)]


def _lines(path: Path, text: str) -> list[RawRow]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(RawRow(f"{path}:{number}", json.loads(line)))
        except json.JSONDecodeError as error:
            raise click.ClickException(f"{path}:{number}: not JSON ({error.msg}); mend the line") from None
        except (ValueError, RecursionError):
            message = f"{path}:{number}: a number too long, or brackets too deep; mend the line"
            raise click.ClickException(message) from None
    return rows


def _checked(row: RawRow, messages: Any) -> chat.Messages:
    if not isinstance(messages, list) or not messages:
        raise click.ClickException(f"{row.where}: `messages` must be a list of messages")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise click.ClickException(f"{row.where}: message {number}: `role` must be one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise click.ClickException(f"{row.where}: message {number}: `content` must be text")
        if message.get("tool_calls"):
            raise click.ClickException(f"{row.where}: message {number}: `tool_calls` are not read yet")
    if messages[-1]["role"] != "assistant":
        raise click.ClickException(f"{row.where}: no answer (the last message is not the assistant's)")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
