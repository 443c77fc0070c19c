"""Forms: the ways in which people write a conversation down, each turned into messages.

A row becomes `{"messages": [...]}`, with `"tools"` where functions are offered, or `{"text": ...}` for continued
pretraining. What cannot be turned is a Flaw: the row is dropped under that name, and counted.
"""

from collections.abc import Callable, Iterable
from typing import Any

from stages.common.conversation import Flaw, Row, conversation, parsed, sequence, string

Columns = Callable[[str], Any]
# A form is told by the columns it cannot do without.
NEEDS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
MAY_HAVE = {
    "messages": ("tools",),
    "sharegpt": ("system", "tools"),
    "alpaca": ("input", "output", "system", "history"),
    "prompt_completion": ("tools",),
    "text": (),
}


def detect(columns: Iterable[str], named: dict[str, str]) -> str | None:
    """Tell the form of a file from its columns, or give None.

    Args:
        columns: names that a row of the file has.
        named: our name to the file's, where they differ.
    """
    present = set(columns)
    fits = (form for form, needs in NEEDS.items() if all(named.get(name, name) in present for name in needs))
    return next(fits, None)


def convert(values: Any, form: str, named: dict[str, str]) -> Row:
    """Turn a row of a known form into messages or text.

    Raises:
        Flaw: it holds something else than the form says.
    """
    if not isinstance(values, dict):
        raise Flaw("not_an_object")

    def column(name: str) -> Any:
        return values.get(named.get(name, name))

    return CONVERTERS[form](column)


def _text(column: Columns) -> Row:
    text = string(column("text"))
    if not text.strip():
        raise Flaw("empty_answer")
    return {"text": text}


def _alpaca(column: Columns) -> Row:
    question = "\n\n".join(part for name in ("instruction", "input") if (part := string(column(name))).strip())
    messages = _system(column)
    history = column("history")
    for turn in [*(sequence(history) if history else []), [question, string(column("output"))]]:
        if not (isinstance(turn, list) and len(turn) == 2):
            raise Flaw("wrong_type")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return conversation(messages, None)


def _prompt_completion(column: Columns) -> Row:
    parts = [column("prompt"), column("completion")]
    turns = [parsed(part) for part in parts]
    if not all(
        isinstance(turn, list) and any("role" in one for one in turn if isinstance(one, dict)) for turn in turns
    ):
        turns = [[{"role": role, "content": part}] for role, part in zip(("user", "assistant"), parts, strict=True)]
    return conversation([*turns[0], *turns[1]], column("tools"))


def _messages(column: Columns) -> Row:
    return conversation(sequence(column("messages")), column("tools"))


def _sharegpt(column: Columns) -> Row:
    messages = _system(column)
    for turn in sequence(column("conversations")):
        if not isinstance(turn, dict):
            raise Flaw("wrong_type")
        message = {"role": turn.get("from", turn.get("role")), "content": turn.get("value", turn.get("content"))}
        if message["role"] == "function_call":
            calls = parsed(message["content"])
            calls = calls if isinstance(calls, list) else [calls]
            message = {"role": "assistant", "content": "", "tool_calls": calls}
        messages.append(message)
    return conversation(messages, column("tools"))


CONVERTERS = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _text,
}


def _system(column: Columns) -> list[dict[str, Any]]:
    system = string(column("system"))
    return [{"role": "system", "content": system}] if system.strip() else []
