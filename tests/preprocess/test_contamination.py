"""Contamination: rows that share an n-gram with a benchmark, and rows that ask one of its short prompts."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from stages.preprocess.contamination import Benchmarks, load_benchmarks, overlaps
from stages.preprocess.filters import spoken_text

PROMPT = "What is the capital of the country whose flag shows a red leaf, please?"


def talk(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def found(row: dict[str, Any], benchmarks: Benchmarks) -> bool:
    return overlaps(row, spoken_text(row, "\0"), benchmarks)


@pytest.fixture
def benchmark(tmp_path: Path) -> Any:
    """Write a benchmark file and load it."""

    def benchmark(name: str, text: str, size: int = 8) -> Benchmarks:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_benchmarks(tmp_path, size)

    return benchmark


def test_a_shared_ngram_is_found_in_any_case_and_punctuation(benchmark: Any) -> None:
    benchmarks = benchmark("a.jsonl", json.dumps({"question": PROMPT, "answer": "Ottawa"}))
    for question in (
        PROMPT,
        PROMPT.upper(),
        "Tell me: what is the capital, of the country whose FLAG shows a leaf?",
    ):
        assert found(talk(question), benchmarks)
        assert found(talk("Ask me something!", question), benchmarks)
        assert found({"text": f"1. {question}"}, benchmarks)
    for question in ("What is the capital of the country?", "Whose flag shows a red leaf?", "", "!?"):
        assert not found(talk(question), benchmarks)
    assert not found({"text": "What is the capital of the land whose flag shows a red leaf"}, benchmarks)


def test_a_short_prompt_counts_where_a_user_message_is_exactly_that(benchmark: Any) -> None:
    benchmarks = benchmark("a.csv", "question,choices\nWho wrote Faust?,\n")
    assert found(talk("who wrote  'Faust'"), benchmarks)
    assert not found(talk("Who wrote Faust, and when?"), benchmarks)
    assert not found(talk("When?", "Who wrote Faust?"), benchmarks)
    assert not found({"text": "Who wrote Faust?"}, benchmarks)


def test_column_names_and_empty_columns_of_a_benchmark_do_not_count(benchmark: Any) -> None:
    benchmarks = benchmark("a.jsonl", json.dumps({"question": {"text": PROMPT}, "answer": "", "label": "?!"}))
    for question in ("question", "Text", "answer", "?", "😀"):
        assert not found(talk(question), benchmarks)


def test_benchmarks_of_every_file_type_are_read_and_none_is_required(tmp_path: Path, benchmark: Any) -> None:
    (tmp_path / "README.md").write_text(PROMPT, encoding="utf-8")
    assert load_benchmarks(tmp_path, 13) == load_benchmarks(tmp_path / "nowhere", 13) == Benchmarks(13, set(), set())
    assert found(talk(PROMPT), benchmark("a.txt", PROMPT))
    deep = '{"a":' * 900 + json.dumps(PROMPT) + "}" * 900
    assert found(talk(PROMPT), benchmark("a.jsonl", deep))
    (tmp_path / "b.json").write_text("[1", encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"b\.json:1: not JSON"):
        load_benchmarks(tmp_path, 13)
