"""Formats: a row in every format becomes the messages that it means, or gets a drop reason."""

import json
from typing import Any

import pytest
from preparing import reading

from stages.common import drop_reasons
from stages.preprocess.columns import detect_format
from stages.preprocess.formats import convert
from stages.preprocess.row_values import DropRow

Values = dict[str, Any]
ASKED = {"role": "user", "content": "Time?"}


TOLD = {"role": "assistant", "content": "Noon."}
PAIR = {"messages": [ASKED, TOLD]}


CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
TOOL = {"type": "function", "function": {"name": "now", "description": "Tell the time"}}


CALLED = [
    ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    TOLD,
]


def talk(*turns: str) -> list[dict[str, str]]:
    """Return messages from `role: content`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def shared(*turns: str) -> list[dict[str, str]]:
    """Return ShareGPT turns from `from: value`."""
    return [{"from": turn["role"], "value": turn["content"]} for turn in talk(*turns)]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("messages", {"messages": [ASKED, TOLD], "id": 7, "tools": None}, [ASKED, TOLD]),
        ("messages", {"messages": json.dumps([ASKED, TOLD]), "tools": ""}, [ASKED, TOLD]),
        (
            "messages",
            {"messages": talk("developer: Be brief.", "human: a", "gpt: b", "user: c", "assistant: d")},
            talk("system: Be brief.", "user: a", "assistant: b", "user: c", "assistant: d"),
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Ti"}, {"text": "me?"}]}, TOLD]},
            [ASKED, TOLD],
        ),
        (
            "messages",
            {
                "messages": [
                    ASKED | {"name": "Ann", "weight": 0},
                    TOLD | {"reasoning_content": "12?", "tool_calls": []},
                ]
            },
            [ASKED | {"name": "Ann"}, TOLD | {"reasoning_content": "12?"}],
        ),
        ("messages", {"messages": [*talk("system: "), ASKED, TOLD]}, [*talk("system: "), ASKED, TOLD]),
        (
            "sharegpt",
            {"conversations": shared("system: Be brief.", "human: a", "gpt: b"), "system": None},
            talk("system: Be brief.", "user: a", "assistant: b"),
        ),
        (
            "sharegpt",
            {"conversations": shared("human: a", "gpt: b"), "system": "S"},
            talk("system: S", "user: a", "assistant: b"),
        ),
        ("sharegpt", {"conversations": [ASKED, TOLD], "system": " "}, [ASKED, TOLD]),
        ("alpaca", {"instruction": "Time?", "input": "", "output": "Noon."}, [ASKED, TOLD]),
        ("alpaca", {"instruction": "Time?", "input": None, "output": "Noon.", "history": []}, [ASKED, TOLD]),
        ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3"}, talk("user: Add\n\n1 2", "assistant: 3")),
        ("alpaca", {"instruction": " ", "input": "Time?", "output": "Noon."}, [ASKED, TOLD]),
        (
            "alpaca",
            {"instruction": "And 2?", "output": "4", "system": "Double it.", "history": [["What is 1?", "2"]]},
            talk("system: Double it.", "user: What is 1?", "assistant: 2", "user: And 2?", "assistant: 4"),
        ),
        (
            "alpaca",
            {"instruction": "And 2?", "output": "4", "history": '[["1?", "2"]]'},
            talk("user: 1?", "assistant: 2", "user: And 2?", "assistant: 4"),
        ),
        ("prompt_completion", {"prompt": "Time?", "completion": "Noon."}, [ASKED, TOLD]),
        ("prompt_completion", {"prompt": [ASKED], "completion": [TOLD]}, [ASKED, TOLD]),
        ("prompt_completion", {"prompt": json.dumps([ASKED]), "completion": json.dumps([TOLD])}, [ASKED, TOLD]),
        ("prompt_completion", {"prompt": "[1]", "completion": "[]"}, talk("user: [1]", "assistant: []")),
        (
            "prompt_completion",
            {"prompt": '[{"a": 1}]', "completion": '[{"a": 2}]'},
            talk('user: [{"a": 1}]', 'assistant: [{"a": 2}]'),
        ),
        ("prompt_completion", {"prompt": "[{", "completion": "}]"}, talk("user: [{", "assistant: }]")),
    ],
)
def test_every_format_becomes_messages(name: str, values: Values, expected: list[Any]) -> None:
    assert convert(values, reading(values, name)) == {"messages": expected}


def test_text_is_not_changed() -> None:
    assert convert({"text": " a\n\n", "id": 1}, reading({"text": " a\n\n", "id": 1}, "text")) == {"text": " a\n\n"}


@pytest.mark.parametrize("tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL]), json.dumps([TOOL["function"]])])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("messages", {"messages": CALLED}),
        (
            "sharegpt",
            {
                "conversations": shared(
                    "human: Time?",
                    'function_call: {"name": "now", "arguments": {"zone": "UTC"}}',
                    "observation: 12:00",
                    "gpt: Noon.",
                )
            },
        ),
        (
            "sharegpt",
            {
                "conversations": shared(
                    "human: Time?",
                    'function_call: [{"name": "now", "arguments": "{\\"zone\\": \\"UTC\\"}"}]',
                    "tool: 12:00",
                    "gpt: Noon.",
                )
            },
        ),
        ("prompt_completion", {"prompt": CALLED[:1], "completion": CALLED[1:]}),
    ],
)
def test_tools_are_kept_in_every_format_that_has_them(name: str, values: Values, tools: Any) -> None:
    assert convert(values | {"tools": tools}, reading(values | {"tools": tools}, name)) == {
        "messages": CALLED,
        "tools": [TOOL],
    }


@pytest.mark.parametrize(
    ("name", "renamed", "values"),
    [
        (
            "prompt_completion",
            {"prompt": "question", "completion": "answer"},
            {"question": "Time?", "answer": "Noon."},
        ),
        ("alpaca", {"instruction": "q", "output": "a"}, {"q": "Time?", "a": "Noon.", "input": ""}),
        ("alpaca", {"instruction": "output", "output": "instruction"}, {"output": "Time?", "instruction": "Noon."}),
        ("messages", {"messages": "chat"}, {"chat": [ASKED, TOLD], "messages": "something else"}),
        ("sharegpt", {"conversations": "chat"}, {"chat": shared("human: Time?", "gpt: Noon.")}),
    ],
)
def test_columns_with_other_names_are_read_by_the_params(name: str, renamed: dict[str, str], values: Values) -> None:
    assert detect_format(values, renamed) == name
    assert convert(values, reading(values, name, renamed)) == PAIR


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("messages", "messages"),
        ("messages instruction output text", "messages"),
        ("conversations system tools", "sharegpt"),
        ("instruction", None),
        ("instruction text prompt completion", "alpaca"),
        ("prompt completion text", "prompt_completion"),
        ("prompt text", "text"),
        ("prompt", None),
        ("Text", "text"),
        ("", None),
    ],
)
def test_the_columns_decide_the_format(columns: str, name: str | None) -> None:
    assert detect_format(columns.split(), {}) == name


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("text", [], "not_an_object"),
        ("alpaca", "text", "not_an_object"),
        ("messages", None, "not_an_object"),
        ("sharegpt", 1, "not_an_object"),
        ("text", {"text": 1}, "wrong_type"),
        ("text", {"text": ["a"]}, "wrong_type"),
        ("text", {}, "empty_answer"),
        ("text", {"text": " \n"}, "empty_answer"),
        ("alpaca", {"instruction": 1, "output": "a"}, "wrong_type"),
        ("alpaca", {"instruction": "a", "input": [1], "output": "b"}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": {"b": 1}}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": "b", "system": 1}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": "b", "history": ["c"]}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", "d", "e"]]}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", 2]]}, "wrong_type"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "none"}, "wrong_type"),
        ("alpaca", {"instruction": "a"}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": None}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": " \t"}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", ""]]}, "empty_answer"),
        ("alpaca", {"instruction": "", "input": " ", "output": "b"}, "empty_question"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["", "c"]]}, "empty_question"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "empty_answer"),
        ("prompt_completion", {"prompt": "a"}, "empty_answer"),
        ("prompt_completion", {"completion": "a"}, "empty_question"),
        ("prompt_completion", {"prompt": [ASKED], "completion": 1}, "wrong_type"),
        ("prompt_completion", {"prompt": 1, "completion": "a"}, "wrong_type"),
        ("prompt_completion", {"prompt": [ASKED], "completion": [ASKED]}, "roles_out_of_order"),
        ("sharegpt", {"conversations": ["a"]}, "wrong_type"),
        ("sharegpt", {"conversations": {"from": "human"}}, "wrong_type"),
        ("sharegpt", {"conversations": None}, "wrong_type"),
        ("sharegpt", {"conversations": []}, "empty_answer"),
        ("sharegpt", {"conversations": shared("human: a", "function_call: now()")}, "wrong_type"),
        (
            "sharegpt",
            {"conversations": shared("human: a", 'function_call: {"name": "now", "arguments": "x"}')},
            "wrong_type",
        ),
        ("sharegpt", {"conversations": shared("human: a", "gpt: b"), "system": ["c"]}, "wrong_type"),
        ("sharegpt", {"conversations": shared("human: a", "gpt: b"), "tools": "c"}, "wrong_type"),
        ("sharegpt", {"conversations": shared("human: a", "gpt: b"), "tools": 1}, "wrong_type"),
        ("sharegpt", {"conversations": shared("human: a", "gpt: b"), "tools": ["c"]}, "wrong_type"),
        ("sharegpt", {"conversations": shared("human: a", "bing: b")}, "unknown_role"),
        ("sharegpt", {"conversations": [{"value": "a"}]}, "unknown_role"),
        ("sharegpt", {"conversations": shared("human: a", "human: b", "gpt: c")}, "roles_out_of_order"),
        (
            "sharegpt",
            {"conversations": shared("system: x", "human: a", "gpt: b"), "system": "y"},
            "roles_out_of_order",
        ),
    ],
)
def test_a_row_that_does_not_follow_its_format_is_dropped(name: str, values: Any, reason: str) -> None:
    with pytest.raises(DropRow) as raised:
        convert(values, reading(values, name))
    assert str(raised.value) == reason
    assert reason in drop_reasons.REASONS
