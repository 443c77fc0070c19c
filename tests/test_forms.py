"""Forms: every way to write a conversation down becomes the messages it means, or the flaw that it has."""

import json
import math
from typing import Any

import pytest

from stages.common import checks, forms
from stages.common.conversation import SPEAKERS, Flaw

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
PICTURE = {"type": "image_url", "image_url": {"url": "a.png"}}


def talk(*turns: str) -> list[dict[str, str]]:
    """Give messages by `role: content`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def said(*turns: str) -> list[dict[str, str]]:
    """Give ShareGPT's turns by `from: value`."""
    return [{"from": turn["role"], "value": turn["content"]} for turn in talk(*turns)]


@pytest.mark.parametrize(
    ("form", "values", "expected"),
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
                    ASKED | {"name": "Ann", "weight": 1},
                    TOLD | {"reasoning_content": "12?", "tool_calls": []},
                ]
            },
            [ASKED | {"name": "Ann"}, TOLD | {"reasoning_content": "12?"}],
        ),
        ("messages", {"messages": [*talk("system: "), ASKED, TOLD]}, [*talk("system: "), ASKED, TOLD]),
        (
            "sharegpt",
            {"conversations": said("system: Be brief.", "human: a", "gpt: b"), "system": None},
            talk("system: Be brief.", "user: a", "assistant: b"),
        ),
        (
            "sharegpt",
            {"conversations": said("human: a", "gpt: b"), "system": "S"},
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
def test_every_form_becomes_messages(form: str, values: Values, expected: list[Any]) -> None:
    assert forms.convert(values, form, {}) == {"messages": expected}


def test_text_stays_as_it_stands() -> None:
    assert forms.convert({"text": " a\n\n", "id": 1}, "text", {}) == {"text": " a\n\n"}


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
def test_tool_calls_take_one_shape(calls: Any) -> None:
    values = {"messages": [CALLED[0], CALLED[1] | {"tool_calls": calls, "content": None}, *CALLED[2:]]}
    assert forms.convert(values, "messages", {}) == {"messages": CALLED}


def test_the_ids_of_tool_calls_are_kept() -> None:
    call, answer = CALL | {"id": "c1"}, CALLED[2] | {"tool_call_id": "c1"}
    values = {"messages": [ASKED, CALLED[1] | {"tool_calls": [call]}, answer, TOLD]}
    assert forms.convert(values, "messages", {})["messages"] == [
        ASKED,
        CALLED[1] | {"tool_calls": [call]},
        answer,
        TOLD,
    ]


@pytest.mark.parametrize("tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL]), json.dumps([TOOL["function"]])])
@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("messages", {"messages": CALLED}),
        (
            "sharegpt",
            {
                "conversations": said(
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
                "conversations": said(
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
def test_tools_pass_through_in_every_form_that_has_them(form: str, values: Values, tools: Any) -> None:
    assert forms.convert(values | {"tools": tools}, form, {}) == {"messages": CALLED, "tools": [TOOL]}


def test_a_call_may_be_the_last_word() -> None:
    assert forms.convert({"messages": CALLED[:2]}, "messages", {}) == {"messages": CALLED[:2]}


def test_what_json_cannot_hold_is_put_as_json_puts_it() -> None:
    call = {"function": {"name": "now", "arguments": {"number": math.nan, "list": (1,)}}}
    row = forms.convert({"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}]}, "messages", {})
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"number": None, "list": [1]}


@pytest.mark.parametrize(
    ("form", "named", "values"),
    [
        (
            "prompt_completion",
            {"prompt": "question", "completion": "answer"},
            {"question": "Time?", "answer": "Noon."},
        ),
        ("alpaca", {"instruction": "q", "output": "a"}, {"q": "Time?", "a": "Noon.", "input": ""}),
        ("alpaca", {"instruction": "output", "output": "instruction"}, {"output": "Time?", "instruction": "Noon."}),
        ("messages", {"messages": "chat"}, {"chat": [ASKED, TOLD], "messages": "something else"}),
        ("sharegpt", {"conversations": "chat"}, {"chat": said("human: Time?", "gpt: Noon.")}),
    ],
)
def test_columns_of_other_names_are_read_by_the_map(form: str, named: dict[str, str], values: Values) -> None:
    assert forms.detect(values, named) == form
    assert forms.convert(values, form, named) == PAIR


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ("messages", "messages"),
        ("messages instruction output text", "messages"),
        ("conversations system tools", "sharegpt"),
        ("instruction", "alpaca"),
        ("instruction text prompt completion", "alpaca"),
        ("prompt completion text", "prompt_completion"),
        ("prompt text", "text"),
        ("prompt", None),
        ("Text", None),
        ("", None),
    ],
)
def test_the_form_is_told_by_the_columns(columns: str, form: str | None) -> None:
    assert forms.detect(columns.split(), {}) == form


def messages(*given: Any) -> tuple[str, Values]:
    return "messages", {"messages": list(given)}


@pytest.mark.parametrize(
    ("form", "values", "flaw"),
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
        ("prompt_completion", {"prompt": [ASKED], "completion": "a"}, "not_text"),
        ("prompt_completion", {"prompt": 1, "completion": "a"}, "wrong_type"),
        ("prompt_completion", {"prompt": [ASKED], "completion": [ASKED]}, "roles_out_of_order"),
        ("sharegpt", {"conversations": ["a"]}, "wrong_type"),
        ("sharegpt", {"conversations": {"from": "human"}}, "wrong_type"),
        ("sharegpt", {"conversations": None}, "wrong_type"),
        ("sharegpt", {"conversations": []}, "empty_answer"),
        ("sharegpt", {"conversations": said("human: a", "function_call: now()")}, "wrong_type"),
        (
            "sharegpt",
            {"conversations": said("human: a", 'function_call: {"name": "now", "arguments": "x"}')},
            "wrong_type",
        ),
        ("sharegpt", {"conversations": said("human: a", "gpt: b"), "system": ["c"]}, "wrong_type"),
        ("sharegpt", {"conversations": said("human: a", "gpt: b"), "tools": "c"}, "wrong_type"),
        ("sharegpt", {"conversations": said("human: a", "gpt: b"), "tools": {"name": "c"}}, "wrong_type"),
        ("sharegpt", {"conversations": said("human: a", "gpt: b"), "tools": ["c"]}, "wrong_type"),
        ("sharegpt", {"conversations": said("human: a", "bing: b")}, "unknown_role"),
        ("sharegpt", {"conversations": [{"value": "a"}]}, "unknown_role"),
        ("sharegpt", {"conversations": said("human: a", "human: b", "gpt: c")}, "roles_out_of_order"),
        ("sharegpt", {"conversations": said("system: x", "human: a", "gpt: b"), "system": "y"}, "roles_out_of_order"),
        (*messages(), "empty_answer"),
        (*messages("Hi"), "wrong_type"),
        (*messages({}), "unknown_role"),
        (*messages({"role": ["user"], "content": "a"}), "unknown_role"),
        (*messages({"role": "User", "content": "a"}, TOLD), "unknown_role"),
        (*messages({"role": "user", "content": 1}, TOLD), "wrong_type"),
        (*messages({"role": "user", "content": [{"text": "a"}, PICTURE]}, TOLD), "not_text"),
        (*messages({"role": "user", "content": ["a"]}, TOLD), "not_text"),
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
def test_what_a_form_cannot_say_is_a_flaw(form: str, values: Any, flaw: str) -> None:
    with pytest.raises(Flaw) as caught:
        forms.convert(values, form, {})
    assert str(caught.value) == flaw
    assert flaw in checks.REASONS


def test_brackets_too_deep_for_json_are_a_flaw() -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    with pytest.raises(Flaw, match="wrong_type"):
        forms.convert(PAIR | {"tools": [deep]}, "messages", {})


def test_every_role_is_one_that_a_template_knows() -> None:
    assert set(SPEAKERS.values()) == {"system", "user", "assistant", "tool"}
