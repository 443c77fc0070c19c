"""Conversations: messages of every spelling in the one shape that chat templates read, with their turns in order."""

import json
from typing import Any

import orjson

Row = dict[str, Any]
SPEAKERS = {
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
# Who may speak after whom; `call` is an assistant that calls tools, which must answer before it goes on.
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


class Flaw(Exception):
    """Why a row is left out: a key of stages.common.checks.REASONS."""


def conversation(messages: list[Any], tools: Any) -> Row:
    """Check messages and the tools on offer, and give them in one shape.

    Raises:
        Flaw: a part of the wrong type, a role unknown or out of turn, or nothing to learn from.
    """
    if not messages:
        raise Flaw("empty_answer")
    checked = [_message(message) for message in messages]
    _check_turns(checked)
    offered = parsed(tools) if tools else None
    if offered is not None and not (isinstance(offered, list) and all(isinstance(tool, dict) for tool in offered)):
        raise Flaw("wrong_type")
    return {"messages": checked, "tools": [_tool(tool) for tool in offered]} if offered else {"messages": checked}


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Flaw("wrong_type")
    role = message.get("role")
    speaker = SPEAKERS.get(role) if isinstance(role, str) else None
    if speaker is None:
        raise Flaw("unknown_role")
    checked: dict[str, Any] = {"role": speaker, "content": string(_parts(message.get("content")))}
    checked |= {name: string(message[name]) for name in EXTRAS if message.get(name) is not None}
    if message.get("tool_calls"):
        checked["tool_calls"] = [_call(call) for call in sequence(message["tool_calls"])]
    return checked


def _parts(content: Any) -> Any:
    """Join a list of text parts; a picture or sound has no place in a text model's row."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise Flaw("not_text")
    return "".join(part["text"] for part in content)


def _call(call: Any) -> dict[str, Any]:
    """Give a tool call in the one shape that chat templates read: arguments are an object, not its JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Flaw("wrong_type")
    arguments = parsed(function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise Flaw("wrong_type")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return _plain({**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}})


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return _plain(tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool})


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Give a free value as JSON holds it (no NaN, no dates), so that the template sees what train.jsonl says."""
    return orjson.loads(dumped(value))


def dumped(value: Any, option: int | None = None) -> bytes:
    """Give a value as JSON text; Flaw for what JSON cannot hold."""
    try:
        return orjson.dumps(value, option=option)
    except TypeError as error:  # orjson's word for half a character, and for numbers and depths beyond its own
        raise Flaw("invalid_unicode" if "surrogates" in str(error) else "wrong_type") from None


def _check_turns(messages: list[dict[str, Any]]) -> None:
    state = ""
    for message in messages:
        if message["role"] not in NEXT[state]:
            raise Flaw("roles_out_of_order")
        calls = bool(message.get("tool_calls"))
        if calls and message["role"] != "assistant":
            raise Flaw("wrong_type")
        if message["role"] in EMPTY and not (calls or message["content"].strip()):
            raise Flaw(EMPTY[message["role"]])
        state = "call" if calls else message["role"]
    if messages[-1]["role"] != "assistant":
        raise Flaw("empty_answer")


def string(value: Any) -> str:
    """Give text, nothing as empty text; Flaw for all else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Flaw("wrong_type")
    return value


def sequence(value: Any) -> list[Any]:
    """Give a list, also one written as JSON text; Flaw for all else."""
    value = parsed(value)
    if not isinstance(value, list):
        raise Flaw("wrong_type")
    return value


def parsed(value: Any) -> Any:
    """Read JSON text where a list or object is wanted: CSV and some hub files hold conversations as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
