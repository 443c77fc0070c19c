"""Counts: every row is counted once, and too many dropped rows are an error."""

import json
from collections.abc import Callable
from pathlib import Path

import accounting
from preparing import Contents, Prepare, alpaca, counts, lines, rows

from stages.preprocess import __main__ as stage


def test_every_row_is_kept_or_counted(prepare: Prepare, byte_base: Path) -> None:
    contents: Contents = {
        "a.jsonl": lines(
            [*rows(30), alpaca("long?", "x" * 2000), alpaca("empty?", ""), alpaca("blank?", " \n"), 3, "text"]
        ),
        "b.json": json.dumps([*rows(10, start=25), alpaca("empty?", ""), {"instruction": ["a"]}]),
    }
    folder = prepare(contents, {"preprocess.empty_answer": "drop", "preprocess.max_dropped_share": 0.2})
    found = counts(folder)
    assert found["rows_read"] == 47
    assert found["rows_dropped"] == {
        "duplicate": 5, "empty_answer": 3, "not_an_object": 2, "over_length": 1, "wrong_type": 1
    }  # fmt: skip
    assert found["rows_kept"] == 47 - 12
    assert found["rows_without_supervised_stop"] == found["rows_without_supervised_tokens"] == 0
    assert found["examples"]["duplicate"] == [f"b.json:{number}" for number in range(1, 6)]
    entries = accounting.check(found, folder / "data" / "raw", folder / "data" / "prepared", byte_base)
    assert [entry["duplicate_of"] for entry in entries if entry["duplicate_of"]] == [
        f"a.jsonl:{number}" for number in range(26, 31)
    ]


def test_the_printed_lines_have_the_counts(write_raw: Prepare, succeed: Callable[..., str], byte_base: Path) -> None:
    folder = write_raw({"a.jsonl": lines([*rows(20), *rows(2), alpaca("Where?", "a@example.com")])})
    printed = succeed(stage.main, "--base", byte_base)
    found = counts(folder)
    assert printed == (
        f"23 rows read, 21 kept: {found['rows_train']} train, {found['rows_val']} val\n"
        "  dropped, duplicate: 2 (such as a.jsonl:21)\n"
        "  found, email: 1 (such as a.jsonl:23)\n"
    )


def test_dropped_rows_up_to_max_dropped_share_are_allowed(prepare: Prepare, reject: Callable[..., str]) -> None:
    contents: Contents = {"a.jsonl": lines([*rows(18), *rows(10), alpaca("a", ""), alpaca("b", "")])}
    changes = {"preprocess.empty_answer": "drop"}
    assert reject(contents, changes | {"preprocess.max_dropped_share": 0.066}).startswith("data/raw: 2 of 30 rows")
    assert counts(prepare(contents, changes | {"preprocess.max_dropped_share": 0.067}))["rows_kept"] == 18
