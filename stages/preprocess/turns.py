"""Turns: one message as people write it down becomes one message as chat templates read it.

A turn is `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`, with reasoning, tool calls and a loss
switch under any of the names that common trainers read. What nothing reads is counted.
"""

from collections import Counter
from typing import Any

from stages.preprocess.row_values import DropRow, dump, is_empty, kind_of, parse, to_text
from stages.preprocess.tool_calls import read_call

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    # The content is a tool call, or a list of them; with the assistant message before it they are one message.
    "function_call": "call",
    "tool_call": "call",
    "tool_calls": "call",
}
REASONING = ("reasoning_content", "reasoning", "thinking")
# Loss switches: whether the message is in the loss, as OpenAI and Mistral (weight), LLaMA-Factory (loss_weight),
# axolotl (train, training), and ms-swift (loss) name them. True and 1 are on, False and 0 off; `masked` is the other
# way round.
SWITCHES = ("weight", "loss_weight", "train", "training", "trainable", "loss", "masked")
PARTIAL = ("train_detail", "training_detail")  # axolotl: parts of one answer
KEPT = ("name", "tool_call_id")
KNOWN = frozenset(("role", "from", "content", "value", "tool_calls", "function_call", *KEPT, *REASONING, *SWITCHES))
PLAIN = {"role", "content"}
SIMPLE_ROLES = {name: role for name, role in ROLES.items() if role != "call"}
ON_OFF = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
TEXT_PARTS = ("text", "input_text", "output_text", None)
MEDIA_PARTS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
}


def read_turn(turn: Any, padded: bool, unread: Counter[str]) -> dict[str, Any]:
    """Turn one message into the form that chat templates read.

    Args:
        turn: the message as it stands in the row.
        padded: whether missing keys stand as null in this row, as in what is dumped from Arrow.
        unread: gets the keys that nothing reads.

    Returns:
        `role` (one of system, user, assistant, tool, or call for a turn that is nothing but tool calls) and
        `content`, with `reasoning_content`, `tool_calls`, `name` and `tool_call_id` where the turn has them, and
        `"weight": 0` where it is switched off.

    Raises:
        DropRow: a value of the wrong type, an unknown role, or what a text model cannot read.
    """
    if not isinstance(turn, dict):
        raise DropRow("wrong_type", f"a message is {kind_of(turn)}")
    if turn.keys() == PLAIN and type(turn["content"]) is str and (plain := SIMPLE_ROLES.get(str(turn["role"]))):
        return {"role": plain, "content": turn["content"]}  # most messages
    for key in turn.keys() - KNOWN:
        if not is_empty(turn[key]):
            unread[f"messages.{key}"] += 1
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        raise DropRow("unknown_role", str(named)[:40] if named is not None else "no role")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    text, thought = ("", "") if role == "call" else read_content(content, role, unread)
    read: dict[str, Any] = {"role": role, "content": text}
    for key, used in (("from", named), ("value", content)):  # beside role and content
        if key in turn and turn[key] != used and not is_empty(turn[key]):
            unread[f"messages.{key}"] += 1
    thoughts = [thought, *(to_text(turn[key], key) for key in REASONING if turn.get(key) is not None)]
    if thoughts := list(dict.fromkeys(filter(None, thoughts))):
        read["reasoning_content"] = "\n\n".join(thoughts)
    given = [content if role == "call" else None, turn.get("tool_calls"), turn.get("function_call")]
    if calls := [call for value in given if value for call in _calls(value, padded, unread)]:
        read["tool_calls"] = calls
    read |= {name: to_text(turn[name], name) for name in KEPT if turn.get(name) is not None}
    if not is_on(turn, role):
        read["weight"] = 0
    return read


def is_on(turn: dict[str, Any], role: str) -> bool:
    """Whether a message is in the loss as far as its loss switches say.

    Raises:
        DropRow: a switch that cannot be followed: neither on nor off, on for another role than the assistant's, or
            one that contradicts another.
    """
    found = {}
    for key in (*SWITCHES, *PARTIAL):
        value = turn.get(key)
        if value is None or value != value:
            continue
        on = ON_OFF.get(str(value).strip().lower()) if key in SWITCHES else None
        if on is None:
            raise DropRow("loss_switch", f"{key} is neither on nor off")
        found[key] = on != (key == "masked")
    if len(set(found.values())) > 1:
        raise DropRow("loss_switch", f"{' and '.join(found)} contradict each other")
    if role not in ("assistant", "call") and True in found.values():
        raise DropRow("loss_switch", f"{next(iter(found))} puts a {role} message into the loss")
    return False not in found.values() or role not in ("assistant", "call")


def read_content(content: Any, role: str, unread: Counter[str]) -> tuple[str, str]:
    """Return the text of a content and the reasoning in it. A tool may answer with any JSON value.

    Raises:
        DropRow: an image, audio, video, or a part that is no text.
    """
    if isinstance(content, str):
        return content, ""
    if content is None:
        return "", ""
    if isinstance(content, list) and not (role == "tool" and not all(map(_is_part, content))):
        texts: dict[bool, list[str]] = {False: [], True: []}
        for part in content:
            text, is_thought = _read_part(part, unread)
            texts[is_thought].append(text)
        return "".join(texts[False]), "\n\n".join(texts[True])
    if role == "tool":
        return dump(content).decode(), ""
    raise DropRow("wrong_type", f"the content of the {role} is {kind_of(content)}")


def _is_part(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and ("text" in part or "type" in part))


def _read_part(part: Any, unread: Counter[str]) -> tuple[str, bool]:
    """Return the text of one part of a content, and whether it is reasoning."""
    if isinstance(part, str):
        return part, False
    if not isinstance(part, dict):
        raise DropRow("not_text", f"a part of a message is {kind_of(part)}")
    kind = part.get("type")
    if isinstance(kind, str) and kind in MEDIA_PARTS:
        raise DropRow(MEDIA_PARTS[kind], "a part of a message")
    thought = kind in REASONING or kind == "reasoning_text"
    keys = (*REASONING, "text", "value", "content") if thought else ("text", "value", "content")
    if not thought and kind not in TEXT_PARTS:
        raise DropRow("not_text", f"a part of a message has the type {str(kind)[:40]}")
    used = next((key for key in keys if isinstance(part.get(key), str)), None)
    for key in part.keys() - {"type", used}:
        if not is_empty(part[key]):
            unread[f"messages.content.{key}"] += 1
    if used is None:
        raise DropRow("not_text", "a part of a message has no text")
    return part[used], thought


def _calls(value: Any, padded: bool, unread: Counter[str]) -> list[dict[str, Any]]:
    calls = parse(value)
    if isinstance(calls, str):
        raise DropRow("wrong_type", "a tool call is not JSON")
    return [read_call(call, padded, unread) for call in (calls if isinstance(calls, list) else [calls])]
