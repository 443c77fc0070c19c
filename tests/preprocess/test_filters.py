"""Filters: control characters, special tokens, languages, and one drop reason per check of a full run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from preparing import Contents, Prepare, alpaca, counts, lines, rows
from stage_runs import DEFAULTS

from stages.common import drop_reasons
from stages.common.params import read_yaml
from stages.preprocess import __main__ as stage
from stages.preprocess.filters import clean, full_text, language_check, special_search
from stages.preprocess.params import PreprocessParams
from stages.preprocess.row_values import DropRow

CALL = {"type": "function", "function": {"name": "now", "arguments": {}}}
PARAMS = read_yaml(DEFAULTS)["preprocess"]


def config(**changes: Any) -> PreprocessParams:
    """Return the params of the repository with changes."""
    return PreprocessParams.model_validate(PARAMS | changes)


def talk(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def cleaned(row: dict[str, Any], special: str = "<end>", **changes: Any) -> dict[str, Any]:
    return clean(row, full_text(row), config(**changes), special_search([special]))


def reason_for(row: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(DropRow) as caught:
        cleaned(row, **changes)
    return str(caught.value)


@pytest.mark.parametrize("odd", [*"\0\1\b\x0b\x0c\x0e\x1b\x1f\x7f\x80\x85\x9f\ufdd0\ufffe\uffff"])
def test_control_characters_are_dropped_stripped_or_kept(odd: str) -> None:
    for row, stripped in (
        ({"text": f"a{odd}b"}, {"text": "ab"}),
        (talk(f"a{odd}b"), talk("ab")),
        (talk("a", tools=[{"function": {odd: f"{odd}b"}}]), talk("a", tools=[{"function": {"": "b"}}])),
    ):
        assert (
            reason_for(row, control_characters="drop")
            == reason_for(row, control_characters="error")
            == "control_character"
        )
        assert cleaned(row, control_characters="strip") == stripped
        assert cleaned(row, control_characters="keep") == row


def test_line_ends_tabs_and_printed_characters_are_not_control_characters() -> None:
    text = "\t\r\n ü 漢字 😀 e\u0301 \u200b \u200d \u2028 \ufeff \u00ad \ue000 \U0010fffd \u202e"
    for policy in ("error", "drop", "strip", "keep"):
        assert cleaned({"text": text}, control_characters=policy) == {"text": text}


def test_control_characters_are_stripped_from_tool_calls() -> None:
    call = {"type": "function", "function": {"name": "n\0ow", "arguments": {"a\0": ["\0b", 1, None]}}}
    row = talk("a")
    row["messages"][1] |= {"content": "", "tool_calls": [call]}
    found = cleaned(row, control_characters="strip")
    arguments = {"name": "now", "arguments": {"a": ["b", 1, None]}}
    assert found["messages"][1]["tool_calls"] == [{"type": "function", "function": arguments}]


def test_an_answer_of_control_characters_alone_is_dropped_as_empty() -> None:
    assert reason_for({"text": "\0 \0"}, control_characters="strip") == "empty_answer"
    assert reason_for(talk("a", "\0"), control_characters="strip") == "empty_answer"
    assert reason_for(talk("\0"), control_characters="strip") == "empty_question"


def test_special_tokens_are_found_in_every_part_of_a_row() -> None:
    called = talk("a")
    called["messages"][1] |= {
        "content": "",
        "tool_calls": [CALL | {"function": {"name": "n", "arguments": {"<end>": 1}}}],
    }
    for row in (
        {"text": "a<end>"},
        talk("a", "b<end>b"),
        talk("a", tools=[{"function": {"name": "n", "description": "<end>"}}]),
        called,
    ):
        assert reason_for(row) == "special_token"
        assert cleaned(row, special="") == row
    for row in ({"text": "<END> < end> <|end|>"}, talk("<en", "d>")):
        assert cleaned(row) == row


def test_special_tokens_are_searched_after_stripping() -> None:
    assert reason_for(talk("<e\0nd>"), control_characters="strip") == "special_token"


LANGUAGES = {
    "en": "The quick brown fox jumps over the lazy dog while it rains.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund.",
    "fr": "Le renard brun saute par-dessus le chien paresseux pendant qu'il pleut.",
    "zh": "今天天气很好我们一起去公园散步吧",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_recognised(language: str) -> None:
    text = LANGUAGES[language]
    assert language_check([language])(text)
    assert language_check([language])(f"\n\n{text}\n{text}\r\n")
    assert language_check([*LANGUAGES])(text)
    assert not language_check([other for other in LANGUAGES if other != language])(text)
    assert language_check([])(text)


@pytest.mark.parametrize(
    "text", ["1 + 1 = 2", "😀", "\u200b", "\ufeff", "x" * 10_000, "__label__de", "\0", "\r", "?"]
)
def test_a_text_without_a_language_always_gets_the_same_answer(text: str) -> None:
    check = language_check(["en"])
    assert check(text) == check(text)


def test_every_drop_reason_has_a_param_that_decides() -> None:
    for param, words in drop_reasons.REASONS.values():
        assert param in PreprocessParams.model_fields
        assert words
    assert set(drop_reasons.REASONS) >= drop_reasons.WANTED


@pytest.mark.parametrize(
    ("param", "value", "question", "reason"),
    [
        ("control_characters", "drop", "a\0b", "control_character"),
        ("special_tokens", "drop", "a<end>b", "special_token"),
        ("languages", ["en"], "Der schnelle braune Fuchs springt über den faulen Hund", "other_language"),
        ("secrets", "drop", "Is AKIA" + "IOSFODNN7EXAMPLE a number?", "secret"),
        ("personal_data", "drop", "Is a@example.com a number?", "personal_data"),
        ("decontaminate_ngram", 3, "Tell me: the capital of France?", "contaminated"),
        ("duplicates", "drop", "Is 3 a number?", "duplicate"),
    ],
)
def test_each_check_drops_its_rows_and_only_those(
    write_raw: Prepare,
    succeed: Callable[..., str],
    byte_base: Path,
    param: str,
    value: Any,
    question: str,
    reason: str,
) -> None:
    contents: Contents = {"a.jsonl": lines([*rows(20), alpaca(question)])}
    folder = write_raw(contents, {f"preprocess.{param}": value, "preprocess.max_dropped_share": 0.05})
    (folder / "data" / "benchmarks").mkdir()
    (folder / "data" / "benchmarks" / "a.txt").write_text("What is the capital of France?\n", encoding="utf-8")
    succeed(stage.main, "--base", byte_base)
    kind = {"personal_data": "email", "secret": "aws_access_key"}.get(reason, reason)
    assert counts(folder)["examples"] == {name: ["a.jsonl:21"] for name in (reason, kind)}
