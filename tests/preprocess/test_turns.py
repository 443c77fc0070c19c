"""Turns: roles, tool calls and parts of contents as people spell them, and the words for what cannot be read."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from preparing import GOOD, SIMILAR, USER, Prepare, answered, counts, kept, lines, reading, unread

from stages.preprocess.row_values import DropRow
from stages.preprocess.turns import read_turn

Values = dict[str, Any]
pytestmark = pytest.mark.slow  # a hundred runs of the stage


@pytest.fixture
def write_raw(write_raw: Prepare) -> Prepare:
    return lambda contents, changes=None: write_raw(contents, SIMILAR | (changes or {}))


def test_keys_of_messages_calls_and_parts_that_nothing_reads_are_named(prepare: Prepare) -> None:
    part = {"type": "text", "text": "yes", "cache_control": {"type": "ephemeral"}}
    call = {"id": "c1", "function": {"name": "now", "arguments": {}, "hint": "x"}, "annotation": 5}
    rows = [
        {
            "messages": [
                USER | {"content": f"{n}?", "timestamp": 3, "refusal": None},
                {"role": "assistant", "content": [part], "tool_calls": [call]},
            ]
        }
        for n in range(20)
    ]
    assert unread(prepare({"a.jsonl": lines(rows)}), "a.jsonl") == {
        "messages.content.cache_control": 20,
        "messages.timestamp": 20,
        "messages.tool_calls.annotation": 20,
        "messages.tool_calls.hint": 20,
    }


CALL = {"name": "add", "arguments": '{"a": 1}'}
ADDED = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([{"role": "assistant", "content": "Let me see", "function_call": CALL}], [("Let me see", [ADDED])]),
        ([{"role": "assistant", "content": None, "function_call": CALL}], [("", [ADDED])]),
        ([{"role": "assistant", "tool_calls": [{"function": CALL}, {"function": CALL}]}], [("", [ADDED, ADDED])]),
        ([{"role": "tool_call", "content": json.dumps(CALL)}], [("", [ADDED])]),
        ([{"role": "tool_call", "content": json.dumps(CALL)}] * 2, [("", [ADDED, ADDED])]),
        (
            [{"role": "assistant", "content": "Now"}, {"role": "function_call", "content": json.dumps([CALL])}],
            [("Now", [ADDED])],
        ),
        ([{"role": "Assistant", "tool_calls": [{"name": "add", "parameters": {"a": 1}}]}], [("", [ADDED])]),
        (
            [{"role": "model", "tool_calls": [{"name": "add", "arguments": ""}]}],
            [("", [{"type": "function", "function": {"name": "add", "arguments": {}}}])],
        ),
    ],
    ids=str,
)
def test_calls_as_the_common_trainers_have_them_are_read(
    prepare: Prepare, turns: list[Values], expected: list[Any]
) -> None:
    row = [USER, *turns, {"role": "function", "content": {"sum": 1}}, {"role": "gpt", "content": "1"}]
    rows = [{"messages": [row[0] | {"content": f"{n}?"}, *row[1:]]} for n in range(20)]
    messages = kept(prepare({"a.jsonl": lines(rows)}))[0]["messages"]
    assert [(one["content"], one["tool_calls"]) for one in messages if "tool_calls" in one] == expected
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2]["content"] == '{"sum":1}'


@pytest.mark.parametrize(
    ("turn", "reason", "detail"),
    [
        ({"role": "narrator", "content": "x"}, "unknown_role", "narrator"),
        ({"role": "assistant", "tool_calls": [{"name": "add", "arguments": '{"a": '}]}, "wrong_type",
         "the arguments of add are not JSON"),
        ({"role": "tool_call", "content": "add(1)"}, "wrong_type", "a tool call is not JSON"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}, "image", "a part of a message"),
        ({"role": "assistant", "content": [{"type": "input_audio", "input_audio": "x"}]}, "audio",
         "a part of a message"),
        ({"role": "assistant", "content": [{"type": "video"}]}, "video", "a part of a message"),
        ({"role": "assistant", "content": [{"type": "file", "file": "x"}]}, "not_text",
         "a part of a message has the type file"),
        ({"role": "assistant", "content": 5}, "wrong_type", "the content of the assistant is a number"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_named(prepare: Prepare, turn: Values, reason: str, detail: str) -> None:
    bad = [{"messages": [USER, turn]}]
    folder = prepare({"a.jsonl": GOOD, "b.jsonl": lines(bad)})
    assert counts(folder)["rows_dropped"] == {reason: 1}
    assert counts(folder)["details"] == {reason: {detail: 1}}


def test_of_two_reasons_the_first_by_name_drops_the_row() -> None:
    read = reading({"text": "a"}, "text")
    with pytest.raises(DropRow) as dropped:
        read.note({"text": "a", "videos": [1], "label": "x", "audio": "a.wav", "images": [1]})
    assert (dropped.value.reason, read.unread) == ("audio", {})


@pytest.mark.parametrize("column", ["image", "images", "audio", "video", "videos"])
def test_rows_with_pictures_and_sound_beside_the_text_are_dropped_by_name(prepare: Prepare, column: str) -> None:
    bad = {"instruction": "What is this?", "output": "A cat", column: ["cat.png"]}
    folder = prepare({"a.jsonl": GOOD, "b.jsonl": lines([bad, bad | {column: []}])}, None)
    assert counts(folder)["rows_dropped"] == {column.removesuffix("s"): 1}
    assert counts(folder)["rows_kept"] == 21


@pytest.mark.parametrize(
    "content",
    ["yes", ["yes"], ["ye", "s"], [{"type": "text", "text": "yes"}], [{"type": "text", "value": "yes"}],
     [{"type": "text", "content": "yes"}], [{"type": "output_text", "text": "yes"}]],
    ids=str,
)  # fmt: skip
def test_every_spelling_of_a_text_part_is_text(
    prepare: Prepare, content: Any, supervised: Callable[..., set[str]]
) -> None:
    folder = prepare({"a.jsonl": lines(answered({"role": "assistant", "content": content}))})
    assert supervised(folder) == {"yes"}
    assert unread(folder, "a.jsonl") == {}


@pytest.mark.parametrize(
    ("spelt", "role"),
    [
        *((name, "user") for name in ("User", "HUMAN", "prompter")),
        *((name, "assistant") for name in ("Assistant", "gpt", "model", "bot", "ai", "chatbot")),
        *((name, "tool") for name in ("Tool ", "function", "observation", "tool_response", "ipython")),
    ],
)
def test_roles_are_read_in_any_case(spelt: str, role: str) -> None:
    assert read_turn({"role": spelt, "content": "x"}, False, Counter())["role"] == role
    assert read_turn({"from": spelt, "value": "x"}, False, Counter())["role"] == role
