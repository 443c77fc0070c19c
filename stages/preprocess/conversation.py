"""Conversation: messages and tools in the one form that chat templates read, with the order of roles checked."""

import json
from collections.abc import Iterator
from typing import Any

import orjson

from stages.common.chat import Row

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "observation": "tool",
    "tool": "tool",
}
# What a message may hold besides role and content, for templates that use it.
EXTRAS = ("name", "reasoning_content", "tool_call_id")
# Which role may follow which. `call` is an assistant message with tool calls: the tools answer next.
NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
# A system message or a tool's answer may be empty.
EMPTY = {"user": "empty_question", "assistant": "empty_answer"}


class DropRow(Exception):
    """Leave this row out. The argument is the drop reason, a key of stages.common.drop_reasons.REASONS."""


def check_conversation(messages: list[Any], tools: Any) -> Row:
    """Check messages and tools, and return them in one form.

    Raises:
        DropRow: a value of the wrong type, an unknown role, a role out of order, or no answer.
    """
    if not messages:
        raise DropRow("empty_answer")
    checked = [_message(message) for message in messages]
    _check_order(checked)
    offered = parse(tools) if tools else None
    if offered is not None and not (isinstance(offered, list) and all(isinstance(tool, dict) for tool in offered)):
        raise DropRow("wrong_type")
    return {"messages": checked, "tools": [_tool(tool) for tool in offered]} if offered else {"messages": checked}


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise DropRow("wrong_type")
    role = message.get("role")
    role_name = ROLES.get(role) if isinstance(role, str) else None
    if role_name is None:
        raise DropRow("unknown_role")
    checked: dict[str, Any] = {"role": role_name, "content": to_text(_join_parts(message.get("content")))}
    checked |= {name: to_text(message[name]) for name in EXTRAS if message.get(name) is not None}
    if message.get("tool_calls"):
        checked["tool_calls"] = [_call(call) for call in to_list(message["tool_calls"])]
    return checked


def _join_parts(content: Any) -> Any:
    """Join a list of text parts. Pictures and sound do not fit a text model."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise DropRow("not_text")
    return "".join(part["text"] for part in content)


def _call(call: Any) -> dict[str, Any]:
    """Return a tool call as chat templates read it: arguments are an object, not JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DropRow("wrong_type")
    arguments = parse(function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise DropRow("wrong_type")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return _as_json({**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}})


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return _as_json(tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool})


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as JSON holds it (no NaN, no dates), so that the template reads what train.jsonl holds."""
    return orjson.loads(dump(value))


def _check_order(messages: list[dict[str, Any]]) -> None:
    state = ""
    for message in messages:
        if message["role"] not in NEXT[state]:
            raise DropRow("roles_out_of_order")
        calls = bool(message.get("tool_calls"))
        if calls and message["role"] != "assistant":
            raise DropRow("wrong_type")
        if message["role"] in EMPTY and not (calls or message["content"].strip()):
            raise DropRow(EMPTY[message["role"]])
        state = "call" if calls else message["role"]
    if messages[-1]["role"] != "assistant":
        raise DropRow("empty_answer")


def dump(value: Any, option: int | None = None) -> bytes:
    """Return a value as JSON text. What JSON cannot hold drops the row."""
    try:
        return orjson.dumps(value, option=option)
    except TypeError as error:  # orjson raises it for lone surrogates, and for numbers and depths beyond its limits
        raise DropRow("invalid_unicode" if "surrogates" in str(error) else "wrong_type") from None


def strings(value: Any, *, names: bool = True) -> Iterator[str]:
    """List every text in a value, with the names of its keys (such as a tool's arguments) or without."""
    waiting = [value]  # no recursion: a raw row may be nested deeper than Python's stack
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            for name, inner in reversed(part.items()):
                waiting += (inner, name) if names else (inner,)
        elif isinstance(part, list):
            waiting += reversed(part)


def to_text(value: Any) -> str:
    """Return text, and None as empty text. Any other type drops the row."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DropRow("wrong_type")
    return value


def to_list(value: Any) -> list[Any]:
    """Return a list, also from JSON text. Any other type drops the row."""
    value = parse(value)
    if not isinstance(value, list):
        raise DropRow("wrong_type")
    return value


def parse(value: Any) -> Any:
    """Parse JSON text of a list or object: CSV files and some hub files hold conversations as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
