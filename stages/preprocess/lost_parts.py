"""Lost parts: what of a row is not in the text that the chat template wrote."""

import json
from collections.abc import Iterator
from typing import Any

from stages.common.chat import REASONING, Row

# Words of JSON schema that templates may leave out or write in their own notation.
SCHEMA_NOTES = frozenset(("type", "title", "format", "$schema", "strict", "required", "additionalProperties"))


def find_lost(content: Row, text: str, spans: list[tuple[int, int]], left_out: int = 0) -> str:
    """Name the first part of a row that is not in its rendered text: a message, its reasoning, a tool call or a tool.

    A call is looked for in the answers, a tool outside them: the name of a function alone stands in both.

    Args:
        content: messages and tools, or text.
        text: what the template made of it.
        spans: its generation blocks.
        left_out: answers before the last that are not in the loss. A template may have left out their reasoning.

    Returns:
        The part, such as `the reasoning of message 2`, or "" if all of them are there.
    """
    messages = content.get("messages", [])
    for number, message in enumerate(messages, start=1):
        if message["content"].strip() not in text and not is_in(message["content"].strip(), text):
            return f"the content of message {number}, {message['role']}"
        if len(message) > 2:
            forgotten = left_out and number < len(messages)
            if not forgotten and not is_in(message.get(REASONING, "").strip(), text):
                return f"the reasoning of message {number}"
            calls = message.get("tool_calls", ())
            answers = (
                "\0".join(text[start:end] for start, end in spans) if calls and "weight" not in message else text
            )
            for call in calls:
                for part in (call["function"]["name"], *leaves(call["function"]["arguments"])):
                    if not is_in(part, answers):
                        return f"{part!r:.60} of a tool call"
    if "tools" in content:
        starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
        outside = "\0".join(text[start:end] for start, end in zip(starts, ends, strict=True))
        for tool in content["tools"]:
            for part in schema_leaves(tool["function"]):
                if not is_in(part, outside):
                    return f"{part!r:.60} of the tool {tool['function'].get('name')!r:.40}"
    return ""


def unwritten_ids(content: Row, text: str) -> Iterator[str]:
    """List the keys of messages with names and ids that the template leaves out, as most do."""
    for message in content.get("messages", ()):
        for key in ("name", "tool_call_id"):
            if key in message and message[key] not in text:
                yield f"messages.{key}"
        for call in message.get("tool_calls", ()):
            if "id" in call and call["id"] not in text:
                yield "messages.tool_calls.id"


def is_in(part: Any, text: str) -> bool:
    """Whether a text, as it is or in quotes, or another value as JSON or Python writes it, is in the text."""
    if isinstance(part, str):
        if part in text:
            return True
        single = json.dumps(part, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")  # LFM2's notation
        return any(
            form in text for form in (json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1], single)
        )
    return json.dumps(part) in text or str(part) in text


def leaves(value: Any) -> Iterator[Any]:
    """List every key and every value that is no list or object."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value.strip() if isinstance(value, str) else value


def schema_leaves(value: Any) -> Iterator[Any]:
    """List the names, descriptions and values of a function's schema, without the vocabulary of JSON schema."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "properties" and isinstance(part, dict):
                yield from part
                for inner in part.values():
                    yield from schema_leaves(inner)
            elif key not in SCHEMA_NOTES or isinstance(part, dict):
                yield from schema_leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from schema_leaves(part)
    elif isinstance(value, str):
        yield value.strip()
