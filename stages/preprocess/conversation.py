"""Conversation: messages and tools in the one form that chat templates read, with the order of roles checked."""

from collections import Counter
from typing import Any

from stages.common.chat import REASONING, Row
from stages.preprocess.row_values import DropRow
from stages.preprocess.tool_calls import clean_tools, has_padding, read_tools
from stages.preprocess.turns import read_turn

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


def check_conversation(turns: list[Any], tools: Any, unread: Counter[str]) -> Row:
    """Check messages and tools, and return them in one form.

    Args:
        turns: the messages as they stand in the row.
        tools: what the assistant may call, None or empty for nothing.
        unread: gets the keys of messages that nothing reads.

    Raises:
        DropRow: a value of the wrong type, an unknown role, a role out of order, or no answer.
    """
    if not turns:
        raise DropRow("empty_answer", "no messages")
    offered = read_tools(tools)
    padded = has_padding(turns, offered)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        message = read_turn(turn, padded, unread)
        if message["role"] == "call":
            message["role"] = "assistant"
            before = messages[-1] if messages else message
            if before["role"] == "assistant" and before is not message:
                if before.get("weight") != message.get("weight"):
                    raise DropRow("loss_switch", "an answer and its tool call differ in it")
                before["tool_calls"] = [*before.get("tool_calls", []), *message.get("tool_calls", [])]
                if thought := message.get(REASONING):
                    before[REASONING] = "\n\n".join(filter(None, (before.get(REASONING), thought)))
                unread.update(f"messages.{key}" for key in ("name", "tool_call_id") if key in message)
                continue
        messages.append(message)
    check_order(messages)
    return {"messages": messages, "tools": clean_tools(offered, padded)} if offered else {"messages": messages}


def check_order(messages: list[dict[str, Any]]) -> None:
    """Check that the roles alternate, and that no question and no answer is empty.

    Raises:
        DropRow: they do not, or one is.
    """
    state = ""
    for message in messages:
        role = message["role"]
        if role not in NEXT[state]:
            raise DropRow("roles_out_of_order", f"{role} after {state}" if state else f"{role} first")
        calls = bool(message.get("tool_calls"))
        if calls and role != "assistant":
            raise DropRow("wrong_type", f"a {role} message has tool calls")
        if role in EMPTY and not (calls or message["content"].strip()):
            raise DropRow(EMPTY[role])
        state = "call" if calls else role
    if messages[-1]["role"] != "assistant":
        raise DropRow("empty_answer", f"the last message is the {messages[-1]['role']}'s")
