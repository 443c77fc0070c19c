"""Messages: the exact text of every error of preprocess. Other tests match the file, the key or the line only."""

import codecs
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from preparing import GOOD, Contents, Prepare, alpaca, lines, rows
from pyarrow import parquet

from stages.preprocess import __main__ as stage
from stages.preprocess.readers import read_rows
from stages.preprocess.sources import data_files

EMPTY = ": no rows; add rows or delete the file"
DEEP = "a number is too long or the nesting too deep; fix the"
NO_FILES = "data/raw: no data files; put .json, .jsonl, .parquet, .csv, .tsv, .txt files in it"
KEYS = ": rows under the keys a, c; name the one to read in preprocess.files, such as {{'{0}': {{key: a}}}}"
NO_ANSWER = "the answer is empty or missing"


def empty_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"", EMPTY),
        ("a.json", b" \n\t\n", EMPTY),
        ("a.json", b"[]", EMPTY),
        ("a.json", b"[ \n ]\n", EMPTY),
        ("a.json", b'[{"a": 1}\n', ":2: not JSON (Expecting ',' delimiter); fix the line"),
        ("a.json", b'[{"a": 1},', ":1: not JSON (Expecting value); fix the line"),
        ("a.json", b'[{"a": 1},,{"b": 2}]', ":1: not JSON (Expecting value); fix the line"),
        ("a.json", b'[\n{"a": 1},\n{"a": "x', ":3: not JSON (Unterminated string starting at); fix the line"),
        ("a.json", b'[\n{"a": 1}\n{"b": 2}]', ":3: not JSON (Expecting ',' delimiter); fix the line"),
        ("a.json", b'[{"a": "\n"}]', ":1: not JSON (Invalid control character at); fix the line"),
        ("a.json", b'[{"a": "\\x"}]', ":1: not JSON (Invalid \\escape); fix the line"),
        ("a.json", b"[1]\n2", ": text after the closing bracket of the array; delete it"),
        ("a.json", b"[1]]", ": text after the closing bracket of the array; delete it"),
        ("a.json", b"[" * 100_000, f": row 1: {DEEP} row"),
        ("a.json", b"[1,\n" + b"1" * 5000 + b" ]", f": row 2: {DEEP} row"),
        ("a.json", b'{"a":\n1', ":2: not JSON (Expecting ',' delimiter); fix the line"),
        ("a.json", b'{"a": [{"b": 1}],\n"c": [{"b": 2}]}', KEYS.format("a.json")),
        (
            "a.csv",
            codecs.BOM_UTF16_BE + "a,b\n1,2".encode("utf-16-be")[:-1],
            ": not utf-16-be (truncated data) after 0 rows; set its encoding in preprocess.files",
        ),
        ("a.jsonl", b"{}\n\n" + b'{"a": b}\n{}', ":3: not JSON (Expecting value); fix the line"),
        ("a.jsonl", b'{"a": \xe9}', ":1: not JSON (Expecting value); fix the line"),
        ("a.jsonl", b'{"a": 1}\r{"a": 2}', ":1: not JSON (Extra data); fix the line"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x', ":2: not JSON (Unterminated string starting at); fix the line"),
        ("a.jsonl", b"{}\n" + b"1" * 5000, f":2: {DEEP} line"),
        ("a.jsonl", b'{"a":' * 50_000, f":1: {DEEP} line"),
        ("a.csv", b"", EMPTY),
        ("a.csv", b"a,b\n\n", EMPTY),
        ("a.csv", b"\na,b,a\n1,2,3", ":2: two columns have the same name; rename one"),
        ("a.csv", b'a,b\n1,2\n"3\n,4\n', ":3: not CSV (unexpected end of data); fix the line"),
        ("a.csv", b'a,b\n1,2\n"3"4,5\n6,7', ":3: not CSV (',' expected after '\"'); fix the line"),
        ("a.txt", b" \n\n", EMPTY),
        pytest.param("a.parquet", empty_parquet(), EMPTY, marks=pytest.mark.slow),
        pytest.param(
            "a.parquet",
            b"",
            ": damaged after 0 rows (Parquet file size is 0 bytes); fetch the file again",
            marks=pytest.mark.slow,
        ),
        ("a.jsonl.gz", b"", EMPTY),
        ("a.jsonl.zst", b"", EMPTY),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(click.ClickException) as raised:
        list(read_rows(tmp_path / name))
    assert raised.value.message == f"{tmp_path}/{name}{message}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException) as raised:
        list(read_rows(tmp_path / "a.jsonl"))
    assert raised.value.message == f"{tmp_path}/a.jsonl: no such file"


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff.jsonl"), "a\nb.jsonl"])
def test_a_name_that_cannot_be_printed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(click.ClickException) as raised:
        data_files(tmp_path)
    assert raised.value.message == f"{tmp_path}: {name!a}: the name cannot be printed; rename the file"


def to_drop(param: str) -> str:
    return f"fix the row, or set preprocess.{param}: drop to leave such rows out and count them"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.xml",
            "<a/>",
            ": not one of .json, .jsonl, .parquet, .csv, .tsv, .txt, each also .gz or .zst; "
            "convert the file or move it away",
        ),
        (
            "a.jsonl",
            '{"txt": "a", "b": 1}\n',
            ": unknown format (columns: b, txt); say which is which in preprocess.files, such as "
            "{'a.jsonl': {columns: {prompt: txt, completion: b}}}, see docs/data.md",
        ),
        (
            "a.jsonl",
            '{"a\\nb": "\\ud800"}',
            ": unknown format (columns: 'a\\nb'); say which is which in preprocess.files, such as "
            "{'a.jsonl': {columns: {prompt: COLUMN, completion: COLUMN}}}, see docs/data.md",
        ),
        (
            "a.jsonl",
            "{}\n3\n",
            ": unknown format (columns: none); say which is which in preprocess.files, such as "
            "{'a.jsonl': {columns: {prompt: COLUMN, completion: COLUMN}}}, see docs/data.md",
        ),
        ("a.jsonl", GOOD + '{"output": "b"\n' + GOOD, ":21: not JSON (Expecting ',' delimiter); fix the line"),
        (
            "a.jsonl",
            '{"instruction": "a"}\n',
            ": no column with the answer (columns: instruction); say which is which in preprocess.files, such as "
            "{'a.jsonl': {columns: {output: COLUMN}}}, see docs/data.md",
        ),
        ("a.jsonl", GOOD + '\n{"instruction": "a", "output": " "}\n', f":22: {NO_ANSWER}; {to_drop('empty_answer')}"),
        ("a.csv", "prompt,completion\na,b\n\nc,\n", f":4: {NO_ANSWER}; {to_drop('empty_answer')}"),
        (
            "a.json",
            json.dumps([*rows(3), alpaca("a", "\n")], indent=2),
            f":4: {NO_ANSWER}; {to_drop('empty_answer')}",
        ),
    ],
)
def test_files_and_rows_with_their_line(
    reject: Callable[..., str], name: str, content: str | bytes, message: str
) -> None:
    assert reject({"good.jsonl": GOOD, name: content}) == f"data/raw/{name}{message}"


@pytest.mark.parametrize(
    ("param", "bad", "words"),
    [
        ("invalid_row", 3, "the row is not a JSON object (a number)"),
        (
            "invalid_row",
            {"instruction": 1, "output": "b"},
            "a value is missing or has the wrong type for the format (instruction is a number)",
        ),
        (
            "invalid_row",
            alpaca("half \ud83d"),
            "the text is not UTF-8 (preprocess.files: encoding), or has a lone surrogate",
        ),
        ("invalid_row", alpaca(" "), "a user message is empty"),
        ("control_characters", alpaca("a\0b"), "the text has a control character"),
        ("special_tokens", alpaca("a", "<pad>"), "the text has a special token of the model"),
        ("over_length", alpaca("a", "x" * 1000), "the row has more than preprocess.max_length tokens"),
    ],
)
def test_rows_that_the_params_make_an_error(reject: Callable[..., str], param: str, bad: Any, words: str) -> None:
    contents = {"good.jsonl": GOOD, "a.jsonl": "\n" + GOOD + lines([bad]) + GOOD}
    message = f"data/raw/a.jsonl:22: {words}; {to_drop(param)}"
    assert reject(contents, {f"preprocess.{param}": "error"}) == message


@pytest.mark.parametrize(
    ("contents", "changes", "message"),
    [
        ({}, {}, NO_FILES),
        ({".hidden": "x", "README.md": "# Rows\n"}, {}, NO_FILES),
        (
            {"rows.jsonl": lines([alpaca("a", ""), alpaca("b", " ")])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: all 2 rows dropped (empty_answer 2 such as rows.jsonl:1); see docs/data.md",
        ),
        (
            {"rows.jsonl": lines(rows(20))},
            {"preprocess.max_length": 10, "preprocess.max_dropped_share": 1},
            "data/raw: all 20 rows dropped (over_length 20 such as rows.jsonl:1); see docs/data.md",
        ),
        (
            {"rows.jsonl": lines([*rows(20), *rows(5), alpaca("a", ""), alpaca("b", "x" * 2000)])},
            {"preprocess.empty_answer": "drop"},
            "data/raw: 2 of 27 rows would be dropped, more than preprocess.max_dropped_share (0.02) allows "
            "(duplicate 5 such as rows.jsonl:21, empty_answer 1 such as rows.jsonl:26, over_length 1 such as "
            "rows.jsonl:27); fix the rows or raise the limit, see docs/data.md",
        ),
        (
            {"rows.jsonl": lines(rows(1))},
            {},
            "data/raw: 1 rows give 1 for training and 0 for validation; add rows or change preprocess.val_fraction",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.seed": -1},
            "params.yaml: preprocess.seed: input should be greater than or equal to 0 (got -1)",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.files": {"*.csv": {"format": "alpaca"}}},
            "preprocess.files: *.csv: no such file in data/raw; fix or delete the pattern",
        ),
        (
            {"rows.jsonl": GOOD},
            {"preprocess.files": {"rows.*": {"columns": {"question": "instruction"}}}},
            "preprocess.files: rows.jsonl: columns: question: unknown; known are completion, conversations, history, "
            "input, instruction, messages, output, prompt, system, text, tools",
        ),
    ],
)
def test_params_and_full_runs(
    reject: Callable[..., str], contents: Contents, changes: dict[str, Any], message: str
) -> None:
    assert reject(contents, changes) == message


def test_a_missing_raw_folder(write_raw: Prepare, fail: Callable[..., str], byte_base: Path) -> None:
    write_raw({})
    message = NO_FILES.replace("data/raw", "data/nowhere")
    assert fail(stage.main, "--raw", "data/nowhere", "--base", byte_base) == message


def test_a_base_without_a_chat_template(write_raw: Prepare, fail: Callable[..., str], byte_base: Path) -> None:
    folder = write_raw({"rows.jsonl": GOOD})
    shutil.copytree(byte_base, folder / "base", ignore=shutil.ignore_patterns("*.jinja"))
    assert fail(stage.main, "--base", "base").startswith("base: no chat template")
    assert [path.name for path in (folder / "data").iterdir()] == ["raw"]
