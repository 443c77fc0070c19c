"""Kept or named: rows, parts of rows and wishes as people have them are obeyed, or the run names what is not read.

Each test has a kind of file that people report to trainers, rebuilt small.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from preparing import GOOD, SIMILAR, USER, Prepare, answered, counts, lines, manifest, spoken, unread
from pyarrow import parquet

from stages.preprocess import __main__ as stage

Values = dict[str, Any]
pytestmark = pytest.mark.slow  # a hundred runs of the stage


@pytest.fixture
def write_raw(write_raw: Prepare) -> Prepare:
    """Write rows of which many differ only in a number, and that are no near-duplicates here."""
    return lambda contents, changes=None: write_raw(contents, SIMILAR | (changes or {}))


@pytest.mark.parametrize(
    "off",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"loss_weight": 0},
        {"train": False},
        {"training": False},
        {"trainable": False},
        {"loss": False},
        {"masked": True},
        {"weight": "0"},
        {"train": "false"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_an_answer_that_is_switched_off_is_not_in_the_loss(
    prepare: Prepare, off: Values, form: str, supervised: Callable[..., set[str]]
) -> None:
    rows = answered({"role": "assistant", "content": "wrong"} | off, {"role": "assistant", "content": "good"})
    if form == "sharegpt":
        for row in rows:
            turns = row.pop("messages")
            row["conversations"] = [
                {"from": turn["role"], "value": turn["content"]}
                | {key: value for key, value in turn.items() if key not in ("role", "content")}
                for turn in turns
            ]
    folder = prepare({"a.jsonl": lines(rows)})
    assert counts(folder)["rows_kept"] == 20
    assert "wrong" in spoken(folder)
    assert supervised(folder, "train") == supervised(folder, "val") == {"good"}


@pytest.mark.parametrize("on", [{"weight": 1}, {"train": True}, {"masked": False}, {"weight": None}], ids=str)
def test_an_answer_that_is_switched_on_is_as_without_a_switch(prepare: Prepare, on: Values) -> None:
    plain = answered({"role": "assistant", "content": "good"})
    folder = prepare({"a.jsonl": lines(plain)})
    expected = sorted(spoken(folder))
    folder = prepare({"a.jsonl": lines(answered({"role": "assistant", "content": "good"} | on))})
    assert sorted(spoken(folder)) == expected
    assert unread(folder, "a.jsonl") == {}


@pytest.mark.parametrize(
    ("answer", "user", "detail"),
    [
        ({"weight": 0.5}, {}, "weight is neither on nor off"),
        ({"weight": 2}, {}, "weight is neither on nor off"),
        ({"train": "maybe"}, {}, "train is neither on nor off"),
        ({"weight": 0, "train": True}, {}, "weight and train contradict each other"),
        ({"train_detail": [{"begin_offset": 0}]}, {}, "train_detail is neither on nor off"),
        ({}, {"train": True}, "train puts a user message into the loss"),
    ],
    ids=str,
)
def test_a_switch_that_cannot_be_followed_drops_the_row_and_says_why(
    prepare: Prepare, answer: Values, user: Values, detail: str
) -> None:
    bad = {"messages": [USER | user, {"role": "assistant", "content": "x"} | answer]}
    folder = prepare({"a.jsonl": GOOD, "b.jsonl": lines([bad])})
    assert counts(folder)["rows_dropped"] == {"loss_switch": 1}
    assert counts(folder)["details"] == {"loss_switch": {detail: 1}}


def test_a_row_of_which_nothing_is_in_the_loss_is_counted(prepare: Prepare) -> None:
    bad = answered({"role": "assistant", "content": "wrong", "weight": 0})[:1]
    folder = prepare({"a.jsonl": GOOD, "b.jsonl": lines(bad)})
    assert counts(folder)["rows_dropped"] == {"no_supervised_token": 1}


def called(arguments: Values, number: int) -> Values:
    """Return a row in which a tool with other arguments is offered, too."""
    functions = {"weather": ["city"], "add": ["a", "b"]}
    name = "weather" if "city" in arguments else "add"
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {"type": "object", "properties": {key: {"type": "string"} for key in keys}},
            },
        }
        for name, keys in functions.items()
    ]
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [
            USER | {"content": f"{number}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "green"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": tools,
    }


def test_nulls_that_arrow_puts_into_structs_go_out_absent(prepare: Prepare, tmp_path: Path) -> None:
    rows = [called({"city": "Rome"} if n % 2 else {"a": f"{n}", "b": "2"}, n) for n in range(20)]
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "a.parquet")
    assert '"city": null' in json.dumps(table.to_pylist())
    texts = []
    for name, data in {
        "a.jsonl": lines(rows).encode(),
        "a.parquet": (tmp_path / "a.parquet").read_bytes(),
        "dumped.jsonl": lines(table.to_pylist()).encode(),
    }.items():
        folder = prepare({name: data})
        texts.append((folder / "data" / "prepared" / "train.jsonl").read_text(encoding="utf-8"))
        assert counts(folder)["rows_kept"] == 20
    assert texts[0] == texts[1] == texts[2]
    assert "null" not in texts[0]


def test_a_null_that_someone_wrote_into_arguments_stays(prepare: Prepare) -> None:
    rows = [called({"a": f"{n}", "b": None}, n) for n in range(20)]
    assert '"b":null' in spoken(prepare({"a.jsonl": lines(rows)})).replace(" ", "")


@pytest.mark.parametrize("as_text", [False, True])
def test_a_map_column_is_an_object_and_json_text_keeps_its_null(
    prepare: Prepare, tmp_path: Path, as_text: bool
) -> None:
    arguments = pa.string() if as_text else pa.map_(pa.string(), pa.string())
    value: Any = '{"city": null}' if as_text else [("city", "Rome")]
    call = pa.struct({"name": pa.string(), "arguments": arguments})
    message = pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": pa.list_(call)})
    rows = [
        [
            {"role": "user", "content": f"{n}?"},
            {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": value}]},
        ]
        for n in range(20)
    ]
    parquet.write_table(pa.table({"messages": pa.array(rows, pa.list_(message))}), tmp_path / "a.parquet")
    text = spoken(prepare({"a.parquet": (tmp_path / "a.parquet").read_bytes()}))
    assert ('{"city": null}' if as_text else '{"city": "Rome"}') in text


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "hidden thought"},
        {"reasoning": "hidden thought"},
        {"thinking": "hidden thought"},
        {"content": [{"type": "thinking", "thinking": "hidden thought"}, {"type": "text", "text": "3"}]},
        {"content": [{"type": "reasoning", "text": "hidden thought"}, {"type": "text", "text": "3"}]},
    ],
    ids=str,
)
def test_reasoning_is_in_the_tokens_or_the_row_is_counted_as_lost(
    prepare: Prepare, write_raw: Prepare, fail: Callable[..., str], succeed: Callable[..., str], byte_base: Path,
    thought: Values,
    supervised: Callable[..., set[str]],
) -> None:  # fmt: skip
    rows = answered({"role": "assistant", "content": "3"} | thought)
    folder = write_raw({"a.jsonl": lines(rows)})
    message = fail(stage.main, "--base", byte_base)
    assert "(lost_by_template 20 such as a.jsonl:1: the reasoning of message 2)" in message
    for key in ("reasoning_content", "thinking", "reasoning"):
        base = shutil.copytree(byte_base, folder / key)
        template = (base / "chat_template.jinja").read_text(encoding="utf-8")
        changed = template.replace("{{ message.content }}", f"{{{{ message.{key} }}}};{{{{ message.content }}}}")
        assert changed != template
        (base / "chat_template.jinja").write_text(changed, encoding="utf-8")
        succeed(stage.main, "--base", base)
        assert supervised(folder) == {"hidden thought;3"}


@pytest.mark.parametrize(
    ("row", "text", "named"),
    [
        (
            {"instruction": "Q", "context": "C", "response": "A", "category": "x"},
            "Q\n\nC",
            {"category": 20},
        ),
        ({"system_prompt": "S", "instruction": "Q", "output": "A", "id": 1}, "S", {"id": 20}),
        ({"system": "S", "prompt": "Q", "completion": "A"}, "S", {}),
        ({"question": "Q", "answer": "A", "source": ""}, "Q", {}),
        ({"query": "Q", "response": "A", "history": [["H", "I"]]}, "H", {}),
        ({"human": "Q", "assistant": "A"}, "Q", {}),
        ({"question": "Q", "context": "C", "answer": "A"}, "C", {}),
        ({" Instruction ": "Q", "INPUT": "C", "Output": "A"}, "C", {}),
        ({"System Prompt": "S", "Question": "Q", "Answer": "A"}, "S", {}),
        ({"text": "T", "label": "neg"}, "T", {"label": 20}),
        ({"instruction": "Q", "input": "C", "context": "more", "output": "A"}, "C", {"context": 20}),
        ({"messages": [USER, {"role": "assistant", "content": "A"}], "system": "S", "score": 3}, "S", {"score": 20}),
    ],
    ids=str,
)
def test_columns_are_read_under_their_usual_names_and_the_others_are_named(
    prepare: Prepare, row: Values, text: str, named: dict[str, int]
) -> None:
    folder = prepare({"a.json": numbered(row)})
    assert json.dumps(text)[1:-1] in spoken(folder)
    assert unread(folder, "a.json") == named


def numbered(row: Values) -> str:
    """Return twenty copies of a row whose first text differs."""
    texts = json.dumps(row)
    first = next(word for word in ("Q", "T", "Say it") if f'"{word}"' in texts)
    return json.dumps([json.loads(texts.replace(f'"{first}"', f'"{first}{n if n else ""}"')) for n in range(20)])


def test_unread_columns_are_printed_once_for_each_file(
    write_raw: Prepare, succeed: Callable[..., str], byte_base: Path
) -> None:
    rows = [{"instruction": f"{n}?", "output": "yes", "topic": "numbers", "turns": [1]} for n in range(20)]
    write_raw({"a.jsonl": lines(rows), "b.jsonl": GOOD.replace("Is", "Was")})
    output = succeed(stage.main, "--base", byte_base)
    assert [line for line in output.splitlines() if "not read" in line] == [
        "  not read, a.jsonl: topic (20), turns (20)"
    ]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"input": "contextt"}, "input: no row has a column contextt; did you mean context?"),
        ({"output": "respons"}, "output: no row has a column respons; did you mean response?"),
        ({"messages": "context"}, "messages: the format alpaca does not read it; delete it"),
    ],
)
def test_a_mapping_that_reads_nothing_is_an_error(
    reject: Callable[..., str], columns: dict[str, str], problem: str
) -> None:
    rows = [{"instruction": f"{n}?", "context": "c", "response": "yes"} for n in range(20)]
    changes = {"preprocess.files": {"*": {"format": "alpaca", "columns": columns}}}
    message = reject({"a.jsonl": lines(rows)}, changes)
    assert (
        message.startswith(f"preprocess.files: a.jsonl: columns: {problem}") or "no column with the answer" in message
    )


def test_rows_in_folders_are_read_and_have_their_path_as_id(prepare: Prepare) -> None:
    contents = {
        "a.jsonl": GOOD,
        "2024/May/a.jsonl": GOOD.replace("Is", "Was"),
        "2024/README.md": "# Rows",
        ".cache/x.jsonl": "broken",
    }
    folder = prepare(contents, {"preprocess.files": {"2024/*": {"format": "alpaca"}}})
    assert counts(folder)["rows_kept"] == 40
    assert {entry["file"] for entry in manifest(folder)} == {"a.jsonl", "2024/May/a.jsonl"}
    assert counts(prepare(contents, {"preprocess.read": ["2024/*"]}))["rows_kept"] == 20


def test_benchmarks_in_folders_are_used(prepare: Prepare, succeed: Callable[..., str], byte_base: Path) -> None:
    folder = prepare({"a.jsonl": GOOD})
    (folder / "data" / "benchmarks" / "math").mkdir(parents=True)
    (folder / "data" / "benchmarks" / "math" / "b.jsonl").write_text('{"q": "Is 3 a number?"}\n', encoding="utf-8")
    succeed(stage.main, "--base", byte_base)
    assert counts(folder)["rows_dropped"] == {"contaminated": 1}


def test_links_are_read_where_they_stay_in_the_folder_and_named_elsewhere(
    prepare: Prepare, succeed: Callable[..., str], fail: Callable[..., str], byte_base: Path
) -> None:
    folder = prepare({"in/a.jsonl": GOOD})
    raw = folder / "data" / "raw"
    (raw / "b.jsonl").symlink_to("in/a.jsonl")
    succeed(stage.main, "--base", byte_base)
    assert counts(folder)["rows_read"] == 40
    (raw / "b.jsonl").unlink()
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "c.jsonl").write_text(GOOD, encoding="utf-8")
    for target, problem in (
        (
            "../../elsewhere/c.jsonl",
            "a link out of data/raw, whose file would be missing elsewhere; copy the file here",
        ),
        ("../../elsewhere", "a link to a folder, which is not followed; move the files here"),
        ("c.jsonl", "a link to c.jsonl, which does not exist; fix or remove the link"),
        ("nowhere", "a link to nowhere, which does not exist; fix or remove the link"),
    ):
        (raw / "c.jsonl").symlink_to(target)
        assert fail(stage.main, "--base", byte_base) == f"data/raw/c.jsonl: {problem}"
        (raw / "c.jsonl").unlink()
    cached = folder / ".dvc" / "cache" / "files" / "md5" / "ab" / ("c" * 30)
    cached.parent.mkdir(parents=True)
    cached.write_text(GOOD, encoding="utf-8")
    (raw / "c.jsonl").symlink_to(cached)  # as DVC makes them with `cache.type symlink`
    succeed(stage.main, "--base", byte_base)
