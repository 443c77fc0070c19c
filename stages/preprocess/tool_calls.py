"""Tool calls and tools: in the one form that chat templates read, without the nulls that Arrow puts in.

An Arrow struct has every key of every row, and null where a row had none. What came in absent goes out absent; a null
that someone wrote into the arguments of a call stays.
"""

from collections import Counter
from typing import Any

from stages.preprocess.row_values import DropRow, as_json, is_empty, kind_of, parse

OTHERS = ("system", "user", "tool")  # roles that call no tools
KNOWN = frozenset(("id", "type", "function", "index", "name", "arguments", "parameters"))


def read_call(call: Any, padded: bool, unread: Counter[str]) -> dict[str, Any]:
    """Return a tool call as chat templates read it: arguments are an object, not JSON text.

    Args:
        call: `{"function": {"name", "arguments"}}`, or the function alone.
        padded: whether a null among the arguments is one that Arrow put in.
        unread: gets the keys that nothing reads.

    Raises:
        DropRow: no name, or arguments that are neither an object nor its JSON text.
    """
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DropRow("wrong_type", "a tool call without a name")
    for holder in (call,) if function is call else (call, function):
        for key in holder.keys() - KNOWN:
            if not is_empty(holder[key]):
                unread[f"messages.tool_calls.{key}"] += 1
    given = function.get("arguments", function.get("parameters"))
    arguments = {} if given is None or (isinstance(given, str) and not given.strip()) else parse(given)
    if not isinstance(arguments, dict):
        problem = "not JSON" if isinstance(arguments, str) else kind_of(arguments)
        raise DropRow("wrong_type", f"the arguments of {function['name'][:40]} are {problem}")
    arguments = as_json(arguments)
    if padded and isinstance(given, dict):  # JSON text has no padding
        arguments = without_nulls(arguments)
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return as_json({**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}})


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """Return the tools that the assistant may call, each as `{"type": "function", "function": ...}`.

    Raises:
        DropRow: not a list of objects, nor JSON text of one.
    """
    offered = parse(tools) if tools else []
    offered = [offered] if isinstance(offered, dict) else offered
    if not isinstance(offered, list) or not all(isinstance(tool, dict) for tool in offered):
        raise DropRow("wrong_type", "tools are not a list of objects")
    return [
        as_json(tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool})
        for tool in offered
    ]


def has_padding(turns: list[Any], tools: list[dict[str, Any]]) -> bool:
    """Whether a row has the nulls of an Arrow struct: as tool calls of a user, or among the properties of a tool."""
    for turn in turns:
        if isinstance(turn, dict) and turn.get("tool_calls", "") is None and turn.get("role") in OTHERS:
            return True
    return any(tool != without_null_properties(tool) for tool in tools)


def clean_tools(tools: list[dict[str, Any]], padded: bool) -> list[dict[str, Any]]:
    """Leave out the nulls that Arrow put in, and null properties, which can never be meant; a null default can."""
    return [without_nulls(tool) if padded else without_null_properties(tool) for tool in tools]


def without_null_properties(value: Any) -> Any:
    """Leave out null properties of a JSON schema."""
    if isinstance(value, list):
        return [without_null_properties(part) for part in value]
    if not isinstance(value, dict):
        return value
    cleaned = {key: without_null_properties(part) for key, part in value.items()}
    if isinstance(cleaned.get("properties"), dict):
        cleaned["properties"] = {key: part for key, part in cleaned["properties"].items() if part is not None}
    return cleaned


def without_nulls(value: Any) -> Any:
    """Leave out the null fields of every object in a value."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value
