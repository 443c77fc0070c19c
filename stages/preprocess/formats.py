"""Formats: the ways in which people write a conversation down, each turned into messages.

Second step of preprocess for a row, after reading. A row becomes `{"messages": [...]}`, with `"tools"` where the
assistant may call functions, or `{"text": ...}` for continued pretraining.
"""

from collections.abc import Callable, Iterable
from typing import Any

from stages.common.chat import Row
from stages.preprocess.conversation import DropRow, check_conversation, parse, to_list, to_text

Column = Callable[[str], Any]
# The columns that a format must have. preprocess recognises the format by them.
REQUIRED_COLUMNS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
OPTIONAL_COLUMNS = {
    "messages": ("tools",),
    "sharegpt": ("system", "tools"),
    "alpaca": ("input", "output", "system", "history"),
    "prompt_completion": ("tools",),
    "text": (),
}


def detect_format(columns: Iterable[str], renamed: dict[str, str]) -> str | None:
    """Return the format that the columns of a file fit, or None.

    Args:
        columns: the column names of a row.
        renamed: our column name to the file's, where they differ.
    """
    present = set(columns)
    for name, required in REQUIRED_COLUMNS.items():
        if all(renamed.get(column, column) in present for column in required):
            return name
    return None


def convert(values: Any, name: str, renamed: dict[str, str]) -> Row:
    """Turn a raw row into messages or text.

    Args:
        values: the row as it stands in the file.
        name: its format, a key of REQUIRED_COLUMNS.
        renamed: our column name to the file's, where they differ.

    Raises:
        DropRow: the row does not follow the format.
    """
    if not isinstance(values, dict):
        raise DropRow("not_an_object")

    def column(name: str) -> Any:
        return values.get(renamed.get(name, name))

    return CONVERTERS[name](column)


def _text(column: Column) -> Row:
    text = to_text(column("text"))
    if not text.strip():
        raise DropRow("empty_answer")
    return {"text": text}


def _alpaca(column: Column) -> Row:
    question = "\n\n".join(part for name in ("instruction", "input") if (part := to_text(column(name))).strip())
    messages = _system_message(column)
    history = column("history")
    for turn in [*(to_list(history) if history else []), [question, to_text(column("output"))]]:
        if not (isinstance(turn, list) and len(turn) == 2):
            raise DropRow("wrong_type")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return check_conversation(messages, None)


def _prompt_completion(column: Column) -> Row:
    parts = [column("prompt"), column("completion")]
    turns = [parse(part) for part in parts]
    if not all(
        isinstance(turn, list) and any("role" in one for one in turn if isinstance(one, dict)) for turn in turns
    ):
        turns = [[{"role": role, "content": part}] for role, part in zip(("user", "assistant"), parts, strict=True)]
    return check_conversation([*turns[0], *turns[1]], column("tools"))


def _messages(column: Column) -> Row:
    return check_conversation(to_list(column("messages")), column("tools"))


def _sharegpt(column: Column) -> Row:
    messages = _system_message(column)
    for turn in to_list(column("conversations")):
        if not isinstance(turn, dict):
            raise DropRow("wrong_type")
        message = {"role": turn.get("from", turn.get("role")), "content": turn.get("value", turn.get("content"))}
        if message["role"] == "function_call":
            calls = parse(message["content"])
            calls = calls if isinstance(calls, list) else [calls]
            message = {"role": "assistant", "content": "", "tool_calls": calls}
        messages.append(message)
    return check_conversation(messages, column("tools"))


CONVERTERS = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _text,
}


def _system_message(column: Column) -> list[dict[str, Any]]:
    system = to_text(column("system"))
    return [{"role": "system", "content": system}] if system.strip() else []
