"""File kinds: JSON, CSV and text as programs and people really save them give the rows that they mean."""

import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from preparing import GOOD, SIMILAR, Prepare, alpaca, counts, kept, lines, questions, rows
from pyarrow import parquet

from stages.common import chat
from stages.preprocess import __main__ as stage
from stages.preprocess.params import FileParams
from stages.preprocess.readers import read_rows

ROWS = [{"instruction": f"{n}?", "output": f"yes, {n}"} for n in range(3)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Any]]:
    """Write a file and return the values of its rows."""

    def read(name: str, data: str | bytes, **params: Any) -> list[Any]:
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return [row.values for row in read_rows(tmp_path / name, FileParams(**params))]

    return read


def pandas(orient: str) -> Any:
    """Return the rows as DataFrame.to_json writes them."""
    names = list(ROWS[0])
    if orient == "columns":
        return {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in names}
    if orient == "index":
        return {str(n): row for n, row in enumerate(ROWS)}
    if orient == "split":
        return {"columns": names, "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}
    return {"schema": {"fields": [{"name": name} for name in names]}, "data": ROWS}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.1", "data": ROWS},
        {"train": ROWS},
        {"name": "set", "data": {"train": ROWS}},
        {"id-1": ROWS[0], "id-2": ROWS[1], "id-3": ROWS[2]},
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        *map(pandas, ("columns", "index", "split", "table")),
    ],
    ids=[
        "array",
        "key",
        "key and version",
        "split",
        "key in a key",
        "by id",
        "columns",
        "pandas columns",
        "index",
        "split",
        "table",
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_in_one_document_are_found(
    read: Callable[..., list[Any]], document: Any, indent: int | None, name: str
) -> None:
    assert read(name, json.dumps(document, indent=indent)) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        lines(ROWS),
        "\n\n".join(json.dumps(row, indent=4) for row in ROWS),
        ",\n".join(json.dumps(row, indent=4) for row in ROWS),
        ",\n".join(map(json.dumps, ROWS)),
        "".join(json.dumps(row) + ",\n" for row in ROWS),
        "".join(json.dumps(row)[:-1] + ",}\n" for row in ROWS),
        f"[{''.join(json.dumps(row) + ', ' for row in ROWS)}]",
        json.dumps(ROWS).replace("}", ", }"),
        json.dumps({"data": ROWS}, indent=1).replace("}\n", "},\n").replace("},,", "},"),
        "\ufeff" + json.dumps(ROWS),
        lines(ROWS).replace("\n", "\r\n"),
    ],
    ids=[
        "lines", "indented", "indented with commas", "lines with commas", "commas at the end", "commas in objects",
        "comma in the array", "commas everywhere", "commas in a document", "byte order mark", "Windows lines",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_as_people_write_it_is_read(read: Callable[..., list[Any]], text: str, encoding: str) -> None:
    if encoding.endswith("e") and text.startswith("\ufeff"):
        text = text[1:]
    params = {"encoding": encoding} if encoding == "utf-32" else {}
    assert read("a.json", text.encode(encoding), **params) == ROWS


def test_a_comma_inside_a_text_stays(read: Callable[..., list[Any]]) -> None:
    row = {"instruction": "a, }", "output": "b,]"}
    assert read("a.json", json.dumps([row])[:-2] + ",},]") == [row]


def test_several_splits_in_a_document_are_an_error_until_the_params_name_one(read: Callable[..., list[Any]]) -> None:
    text = json.dumps({"train": ROWS[:2], "test": ROWS[2:]}, indent=1)
    with pytest.raises(
        click.ClickException, match=r"rows under the keys train, test; .* \{'a.json': \{key: train\}\}"
    ):
        read("a.json", text)
    assert read("a.json", text, key="train") == ROWS[:2]
    assert read("a.json", text, key="test") == ROWS[2:]
    with pytest.raises(click.ClickException, match="key: val: no rows there; keys are test, train"):
        read("a.json", text, key="val")


def test_what_stands_beside_the_rows_of_a_document_is_named(prepare: Prepare) -> None:
    folder = prepare({"a.json": json.dumps({"licence": "MIT", "note": "", "data": rows(20)}, indent=1)})
    assert counts(folder)["files"]["a.json"]["unread"] == {"licence": 1}


def test_conversations_without_a_name_are_read(prepare: Prepare) -> None:
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"yes, {n}"}] for n in range(20)]
    for name, text in (("a.jsonl", lines(turns)), ("a.json", json.dumps(turns, indent=1))):
        folder = prepare({name: text}, SIMILAR)
        assert sorted(questions(kept(folder))) == sorted(f"{n}?" for n in range(20)), name


@pytest.mark.parametrize(
    ("name", "text", "params"),
    [
        ("a.csv", "instruction,output\n{}", {}),
        ("a.csv", "instruction;output\n{}", {}),
        ("a.csv", "instruction|output\n{}", {}),
        ("a.csv", "instruction\toutput\n{}", {}),
        ("a.tsv", "instruction\toutput\n{}", {}),
        ("a.csv", "sep=;\r\ninstruction;output\r\n{}", {}),
        ("a.csv", "instruction^output\n{}", {"delimiter": "^"}),
        ("a.csv", "\ufeff\n\ninstruction;output\n{}", {}),
    ],
    ids=["comma", "semicolon", "bar", "tab", "tsv", "sep line", "named", "blank lines"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_tables_are_read_with_their_delimiter_and_encoding(
    read: Callable[..., list[Any]], name: str, text: str, params: dict[str, Any], encoding: str
) -> None:
    header = text.format("").strip().splitlines()[-1]
    between = header.removeprefix("\ufeff").removeprefix("instruction").removesuffix("output")
    cells = "".join(f'"{n}? ü"{between}"yes, {n};\t|"\n' for n in range(3))
    if encoding == "cp1252":
        text, params = text.replace("\ufeff", ""), params | {"encoding": "windows-1252"}
    expected = [{"instruction": f"{n}? ü", "output": f"yes, {n};\t|"} for n in range(3)]
    assert read(name, text.format(cells).encode(encoding), **params) == expected


def test_text_in_an_unnamed_encoding_is_dropped_and_the_setting_is_named(prepare: Prepare) -> None:
    values = lines([*rows(19), alpaca("caf\u00e9")]).replace("\\u00e9", "é").encode("windows-1252")
    changes = {"preprocess.max_dropped_share": 0.1}
    folder = prepare({"a.jsonl": values}, changes)
    assert counts(folder)["rows_dropped"] == {"invalid_unicode": 1}
    named = {"preprocess.files": {"a.jsonl": {"encoding": "windows-1252"}}}
    assert "café" in questions(kept(prepare({"a.jsonl": values}, changes | named)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"encoding": "latin-99"}, "encoding: unknown encoding; use a name such as windows-1252 or utf-16"),
        ({"delimiter": ";;"}, "delimiter: string should have at most 1 character"),
    ],
)
def test_settings_of_a_file_are_checked(reject: Callable[..., str], settings: dict[str, str], problem: str) -> None:
    message = reject({"a.jsonl": GOOD}, {"preprocess.files": {"*": settings}})
    assert message.startswith(f"params.yaml: preprocess.files.*.{problem}")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([2, 3.5, True, "x"], ["2", "3.5", "true", "x"]),
        ([2**60, -1, 0, False], ["1152921504606846976", "-1", "0", "false"]),
    ],
)
def test_numbers_are_text_where_most_of_a_column_is_numbers(
    prepare: Prepare, values: list[Any], texts: list[str]
) -> None:
    many = [{"instruction": f"{n}?", "output": values[n % 4], "input": float("nan")} for n in range(20)]
    folder = prepare({"a.jsonl": lines(many)}, SIMILAR)
    assert {row["messages"][1]["content"] for row in kept(folder)} == set(texts)
    expected = sum(not isinstance(row["output"], str) for row in many)
    assert counts(folder)["files"]["a.jsonl"]["numbers_as_text"] == {"output": expected}


@pytest.mark.slow
def test_decimal_numbers_of_parquet_are_numbers(prepare: Prepare, tmp_path: Path) -> None:
    many = [{"instruction": f"{n}?", "output": Decimal(f"{n}.50")} for n in range(20)]
    parquet.write_table(pa.Table.from_pylist(many), tmp_path / "a.parquet")
    folder = prepare({"a.parquet": (tmp_path / "a.parquet").read_bytes()}, SIMILAR)
    assert "7.50" in {row["messages"][1]["content"] for row in kept(folder)}


def test_a_number_among_texts_is_dropped_and_its_column_named(prepare: Prepare) -> None:
    bad = [{"instruction": "a", "output": 5}, {"instruction": "b", "output": float("nan")}]
    folder = prepare(
        {"a.jsonl": GOOD + lines(bad)}, {"preprocess.max_dropped_share": 0.1, "preprocess.empty_answer": "drop"}
    )
    assert counts(folder)["rows_dropped"] == {"empty_answer": 1, "wrong_type": 1}
    assert counts(folder)["details"] == {"wrong_type": {"output is a number": 1}}


@pytest.mark.parametrize(
    ("language", "hint"),
    [
        ("DE", "did you mean de?"),
        ("de-DE", "did you mean de?"),
        ("german", "known are af, als, am"),
        ("", "known are"),
    ],
)
def test_a_language_that_the_detector_does_not_know_is_an_error(
    reject: Callable[..., str], language: str, hint: str
) -> None:
    message = reject({"a.jsonl": GOOD}, {"preprocess.languages": ["en", language]})
    assert message.startswith(f"preprocess.languages: {language}: unknown language code; {hint}")


def test_rows_in_another_language_count_as_lost_unless_they_have_a_limit(
    prepare: Prepare, reject: Callable[..., str]
) -> None:
    german = [
        alpaca(f"Wie viele Stühle stehen heute Abend im großen Saal {n}?", "Das weiß ich nicht") for n in range(20)
    ]
    english = [
        alpaca(f"How many chairs stand in the hall tonight, the number {n}?", "I do not know") for n in range(20)
    ]
    contents = {"a.jsonl": lines(german + english)}
    changes = SIMILAR | {"preprocess.languages": ["en"]}
    assert "more than preprocess.max_dropped_share (0.1) allows (other_language 20" in reject(contents, changes)
    limit = {"preprocess.max_other_language_share": 0.4}
    assert "more than preprocess.max_other_language_share (0.4) allows" in reject(contents, changes | limit)
    assert counts(prepare(contents, changes | {"preprocess.max_other_language_share": 0.5}))["rows_kept"] == 20


@pytest.mark.parametrize("over_length", ["drop", "truncate"])
@pytest.mark.parametrize("form", ["text", "messages", "tools"])
def test_a_huge_row_is_judged_by_its_beginning(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, over_length: str, form: str
) -> None:
    """What the tokenizer gets of it is a small part."""
    huge = "QUFB" * 500_000
    pair = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    after = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": huge}]
    row: dict[str, Any] = {"text": huge} if form == "text" else {"messages": pair + after}
    if form == "tools":
        row = {"messages": pair, "tools": [{"name": "a", "description": huge}]}
    seen: list[int] = []
    tokenize = chat.tokenize

    def watched(one: chat.ChatTokenizer, texts: list[Any]) -> list[chat.Encoded]:
        seen.extend(len(text) for text, _ in texts)
        return tokenize(one, texts)

    monkeypatch.setattr(chat, "tokenize", watched)
    contents = {"a.jsonl": GOOD, "b.jsonl": lines([row])}
    folder = prepare(contents, {"preprocess.over_length": over_length, "preprocess.max_dropped_share": 0.1})
    assert max(seen) < 20_000
    if over_length == "drop" or form == "tools":
        assert counts(folder)["rows_dropped"] == {"over_length": 1}
    else:
        assert counts(folder)["rows_truncated"] == 1
        assert counts(folder)["tokens_truncated"] == pytest.approx(2_000_000, rel=0.01)
        assert counts(folder)["rows_kept"] == 21


def test_the_reason_of_the_template_is_printed_once(
    write_raw: Prepare, fail: Callable[..., str], byte_base: Path
) -> None:
    folder = write_raw({"a.jsonl": GOOD})
    base = shutil.copytree(byte_base, folder / "base")
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    (base / "chat_template.jinja").write_text("{{ strftime_now('%d') }}" + template, encoding="utf-8")
    message = fail(stage.main, "--base", base)
    assert message.count("'strftime_now' is undefined") == 1
    assert "(template_refused 20 such as a.jsonl:1: 'strftime_now' is undefined)" in message
