"""Formats: the ways in which people write a conversation down, each turned into messages.

Second step of preprocess for a row, after reading. A row becomes `{"messages": [...]}`, with `"tools"` where the
assistant may call functions, or `{"text": ...}` for continued pretraining.
"""

from collections.abc import Callable
from typing import Any

from stages.common.chat import Row
from stages.preprocess.columns import Reading
from stages.preprocess.conversation import check_conversation
from stages.preprocess.row_values import DropRow, is_empty, kind_of, parse, to_list, to_text

Column = Callable[[str], Any]


def convert(values: Any, reading: Reading) -> Row:
    """Turn a raw row into messages or text.

    Args:
        values: the row as it stands in the file.
        reading: its format and columns; counts what is not read.

    Raises:
        DropRow: the row does not follow the format.
    """
    if isinstance(values, list) and reading.format in ("messages", "sharegpt"):  # a conversation without a name
        values = {reading.columns[reading.format.replace("sharegpt", "conversations")]: values}
    if not isinstance(values, dict):
        raise DropRow("not_an_object", kind_of(values))
    reading.note(values)
    return CONVERTERS[reading.format](lambda name: reading.get(values, name), reading)


def _text(column: Column, reading: Reading) -> Row:
    text = to_text(column("text"), reading.columns["text"])
    if not text.strip():
        raise DropRow("empty_answer")
    return {"text": text}


def _alpaca(column: Column, reading: Reading) -> Row:
    turns = _pairs(column, reading, ("instruction", "input"), "output")
    return check_conversation(_with_system(turns, column, reading), None, reading.unread)


def _prompt_completion(column: Column, reading: Reading) -> Row:
    parts = {"user": column("prompt"), "assistant": column("completion")}
    lists = {role: parse(part) for role, part in parts.items()}
    if any(map(_has_roles, lists.values())):
        turns: list[Any] = []
        for role, part in lists.items():
            turns += part if _has_roles(part) else [{"role": role, "content": parts[role]}]
        for name in ("input", "history"):
            if not is_empty(column(name)):
                reading.unread[reading.columns[name]] += 1
    else:
        turns = _pairs(column, reading, ("prompt", "input"), "completion")
    return check_conversation(_with_system(turns, column, reading), column("tools"), reading.unread)


def _pairs(column: Column, reading: Reading, asked: tuple[str, ...], answered: str) -> list[Any]:
    """Return questions and answers as messages: those of the history, and the row's own."""
    texts = {name: to_text(column(name), reading.columns[name]) for name in (*asked, answered)}
    question = "\n\n".join(texts[name] for name in asked if texts[name].strip())
    history = column("history")
    turns: list[Any] = []
    for turn in [*(to_list(history, "history") if history else []), [question, texts[answered]]]:
        if not (isinstance(turn, list) and len(turn) == 2):
            raise DropRow("wrong_type", "history is not a list of pairs")
        turns += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return turns


def _messages(column: Column, reading: Reading) -> Row:
    name = next(iter(reading.columns))
    turns = to_list(column(name), reading.columns[name])
    return check_conversation(_with_system(turns, column, reading), column("tools"), reading.unread)


CONVERTERS = {
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _text,
}


def _has_roles(turns: Any) -> bool:
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )


def _with_system(turns: list[Any], column: Column, reading: Reading) -> list[Any]:
    """Put the system column before the messages, unless it is there already."""
    system = to_text(column("system"), reading.columns["system"])
    if not system.strip():
        return turns
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    if first.get("content", first.get("value")) == system and first.get("role", first.get("from")) == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]
