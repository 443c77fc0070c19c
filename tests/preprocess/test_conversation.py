"""Conversation: messages and tools in one form, and a drop reason for each fault."""

import json
import math
from typing import Any

import pytest
from preparing import reading

from stages.common import drop_reasons
from stages.preprocess.formats import convert
from stages.preprocess.row_values import DropRow
from stages.preprocess.turns import ROLES

ASKED = {"role": "user", "content": "Time?"}
TOLD = {"role": "assistant", "content": "Noon."}


PAIR = {"messages": [ASKED, TOLD]}
CALL: dict[str, Any] = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}


CALLED: list[Any] = [
    ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    TOLD,
]
PICTURE = {"type": "image_url", "image_url": {"url": "a.png"}}


def talk(*turns: str) -> list[dict[str, str]]:
    """Return messages from `role: content`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        json.dumps([CALL]),
        [{"name": "now", "arguments": {"zone": "UTC"}}],
        [{"function": {"name": "now", "arguments": '{"zone": "UTC"}'}}],
        [{"function": {"name": "now", "arguments": ' {"zone": "UTC"}'}, "index": 0}],
    ],
    ids=["as given", "as text", "bare", "arguments as text", "more keys"],
)
def test_tool_calls_have_one_form(calls: Any) -> None:
    values = {"messages": [CALLED[0], CALLED[1] | {"tool_calls": calls, "content": None}, *CALLED[2:]]}
    assert convert(values, reading(values, "messages")) == {"messages": CALLED}


def test_the_ids_of_tool_calls_are_kept() -> None:
    call, answer = CALL | {"id": "c1"}, CALLED[2] | {"tool_call_id": "c1"}
    values = {"messages": [ASKED, CALLED[1] | {"tool_calls": [call]}, answer, TOLD]}
    assert convert(values, reading(values, "messages"))["messages"] == [
        ASKED,
        CALLED[1] | {"tool_calls": [call]},
        answer,
        TOLD,
    ]


def test_a_conversation_may_end_in_a_tool_call() -> None:
    assert convert({"messages": CALLED[:2]}, reading({"messages": CALLED[:2]}, "messages")) == {
        "messages": CALLED[:2]
    }


def test_values_that_json_cannot_hold_become_json() -> None:
    call = {"function": {"name": "now", "arguments": {"number": math.nan, "list": (1,)}}}
    row = convert(
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]},
        reading({"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]}, "messages"),
    )
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"number": None, "list": [1]}


def messages(*given: Any) -> tuple[str, dict[str, Any]]:
    return "messages", {"messages": list(given)}


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        (*messages(), "empty_answer"),
        (*messages("Hi"), "wrong_type"),
        (*messages({}), "unknown_role"),
        (*messages({"role": ["user"], "content": "a"}), "unknown_role"),
        (*messages({"role": "Narrator", "content": "a"}, TOLD), "unknown_role"),
        (*messages({"role": "user", "content": 1}, TOLD), "wrong_type"),
        (*messages({"role": "user", "content": [{"text": "a"}, PICTURE]}, TOLD), "image"),
        (*messages({"role": "user", "content": ["a", 1]}, TOLD), "not_text"),
        (*messages(ASKED, TOLD | {"reasoning_content": 1}), "wrong_type"),
        (*messages(ASKED), "empty_answer"),
        (*messages(ASKED, TOLD, ASKED), "empty_answer"),
        (*messages(ASKED, {"role": "assistant"}), "empty_answer"),
        (*messages(ASKED, {"role": "assistant", "content": []}), "empty_answer"),
        (*messages({"role": "user", "content": "\n"}, TOLD), "empty_question"),
        (*messages(TOLD), "roles_out_of_order"),
        (*messages(ASKED, ASKED, TOLD), "roles_out_of_order"),
        (*messages(ASKED, TOLD, TOLD), "roles_out_of_order"),
        (*messages(ASKED, CALLED[2], TOLD), "roles_out_of_order"),
        (*messages(*CALLED[:2], TOLD), "roles_out_of_order"),
        (*messages(ASKED, *talk("system: a"), TOLD), "roles_out_of_order"),
        (*messages(*talk("system: a", "system: b"), ASKED, TOLD), "roles_out_of_order"),
        (*messages(*CALLED[:3]), "empty_answer"),
        (*messages(ASKED | {"tool_calls": [CALL]}, TOLD), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": "now"}), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": [1]}), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": [{"function": "now"}]}), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": [{"function": {"arguments": {}}}]}), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": [{"name": "now", "arguments": "[1]"}]}), "wrong_type"),
        (*messages(ASKED, TOLD | {"tool_calls": [{"name": "now", "arguments": {"a": "\ud800"}}]}), "invalid_unicode"),
        (*messages(ASKED, TOLD | {"tool_calls": [{"name": "now", "arguments": {"a": 2**70}}]}), "wrong_type"),
        ("messages", {"messages": "Hi"}, "wrong_type"),
        ("messages", {"messages": {}}, "wrong_type"),
        ("messages", {}, "wrong_type"),
    ],
)
def test_a_fault_in_the_messages_drops_the_row(name: str, values: Any, reason: str) -> None:
    with pytest.raises(DropRow) as raised:
        convert(values, reading(values, name))
    assert str(raised.value) == reason
    assert reason in drop_reasons.REASONS


def test_nesting_too_deep_for_json_drops_the_row() -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    with pytest.raises(DropRow, match="wrong_type"):
        convert(PAIR | {"tools": [deep]}, reading(PAIR | {"tools": [deep]}, "messages"))


def test_every_role_is_one_that_a_template_knows() -> None:
    assert set(ROLES.values()) == {"system", "user", "assistant", "tool", "call"}
