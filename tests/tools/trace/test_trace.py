"""`make trace`: how a row is found, and what is printed of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trace_project import ROWS, parts, pick, run

from tools.trace import __main__ as trace

pytestmark = pytest.mark.slow  # DVC runs a pipeline


def test_a_duplicate_is_shown_with_the_row_that_is_kept(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, "rows.jsonl:7"))
    record, kept = (pick(project, file="rows.jsonl", line=line) for line in (7, 1))
    assert found[2:] == [
        ("outcome", "dropped: an earlier row has the same content (duplicate)"),
        ("tokens", f"{record['tokens']}, {record['supervised_tokens']} of them supervised"),
        ("duplicate of", f"rows.jsonl:1 ({kept['outcome']}):"),
        ("user", "What is ax?"),
        ("assistant", "A ax is a thing."),
        ("models", "none is trained on it; `make trace ROW=rows.jsonl:1` shows the row that is kept"),
    ]


def test_a_row_that_is_not_a_conversation_is_shown_as_it_stands(project: Path, succeed: Callable[..., str]) -> None:
    assert parts(succeed(trace.main, "data/raw/rows.jsonl:8")) == [
        ("row", "rows.jsonl:8 in data/raw"),
        ("content hash", "none: the row is not a conversation"),
        ("outcome", "dropped: the answer is empty or missing (empty_answer)"),
        ("raw row", '{"instruction": "Nothing to say.", "output": ""}'),
        ("models", "none is trained on it"),
    ]
    assert ("raw row", "5") in parts(succeed(trace.main, "talk.jsonl:2"))
    (project / "data/raw/talk.jsonl").unlink()
    assert parts(succeed(trace.main, "talk.jsonl:2"))[-2][0] == "outcome"


def test_a_long_row_is_shortened(project: Path, succeed: Callable[..., str]) -> None:
    found = parts(succeed(trace.main, "talk.jsonl:1"))
    start = next(index for index, (name, _) in enumerate(found) if name == "user")
    messages = found[start : start + 7]
    assert [name for name, _ in messages] == ["user", "assistant", "user", "assistant", "user", "…", "assistant"]
    assert messages[5][1] == "2 more"
    assert messages[6][1].startswith("assistant 3 long")
    assert all(len(text) == trace.WIDTH and text.endswith("…") for name, text in messages if name != "…")


def test_a_row_that_was_cut_is_marked(project: Path, succeed: Callable[..., str]) -> None:
    assert dict(parts(succeed(trace.main, "talk.jsonl:3")))["tokens"].endswith(", cut to preprocess.max_length")
    assert dict(parts(succeed(trace.main, "talk.jsonl:1")))["tokens"].endswith(" of them supervised")


def test_findings_are_named(project: Path, succeed: Callable[..., str]) -> None:
    found = dict(parts(succeed(trace.main, "rows.jsonl:6")))
    assert found["findings"] == "email"
    assert found["assistant"] == "Hi, Zoë! Mail zoe@example.com"


@pytest.mark.parametrize("digits", [8, 20, 32])
def test_a_row_is_found_by_its_hash(project: Path, succeed: Callable[..., str], digits: int) -> None:
    record = pick(project, file="rows.jsonl", line=3)
    assert parts(succeed(trace.main, record["content_hash"][:digits].upper()))[0][1] == "rows.jsonl:3 in data/raw"


@pytest.mark.parametrize("words", ["zoë SAY", '"HI"', "to zoë hi, mail"])
def test_a_row_is_found_by_its_words(project: Path, succeed: Callable[..., str], words: str) -> None:
    assert parts(succeed(trace.main, words))[0][1] == "rows.jsonl:6 in data/raw"


@pytest.mark.parametrize("words", ["messages", "role", "content", "nto", "\\n", "at 10:30"])
def test_words_that_only_stand_in_the_json_around_a_row_or_nowhere(
    project: Path, fail: Callable[..., str], words: str
) -> None:
    assert fail(trace.main, words).startswith(f"{words}: no row has this id or hash")


def test_ten_of_many_rows_are_listed(project: Path, succeed: Callable[..., str]) -> None:
    listed = succeed(trace.main, "count from").splitlines()
    assert len(listed) == trace.LISTED
    assert all(line.split()[1] in ("train", "val") for line in listed)
    for line in listed:
        name, _, outcome = line.partition("  ")
        record = pick(project, file="rows.jsonl", line=int(name.split(":")[1]))
        assert record["outcome"] == outcome
        assert "Count from" in ROWS[record["line"] - 1]["instruction"]


def test_a_few_rows_are_all_listed(project: Path, succeed: Callable[..., str]) -> None:
    assert len(succeed(trace.main, "is thing").splitlines()) == 5


def test_a_cache_in_another_place_is_found(project: Path, succeed: Callable[..., str]) -> None:
    before = succeed(trace.main, "rows.jsonl:3", "--rev", "first")
    (project / ".dvc/cache").rename(project / "elsewhere")
    run(project, "dvc cache dir -q --local elsewhere")
    assert succeed(trace.main, "rows.jsonl:3", "--rev", "first") == before


def test_rows_of_a_revision_that_are_not_in_the_cache_can_be_fetched(
    project: Path, succeed: Callable[..., str], fail: Callable[..., str]
) -> None:
    run(project, "git add -A", "git commit -qm second")
    before = succeed(trace.main, "rows.jsonl:3", "--rev", "first")
    shutil.rmtree(project / ".dvc/cache")
    error = fail(trace.main, "rows.jsonl:3", "--rev", "first")
    command = "git checkout first && dvc fetch preprocess && git checkout -"
    assert error == f"data/prepared/manifest.parquet at first: not in the DVC cache; run `{command}` first"
    run(project, command)
    assert succeed(trace.main, "rows.jsonl:3", "--rev", "first") == before
