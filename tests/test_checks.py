"""Checks: control characters, special tokens, languages, secrets and personal data, and passages of benchmarks."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from stages.common import checks, drafts, passages, patterns
from stages.common.conversation import Flaw
from stages.common.settings import read_yaml

ROOT = Path(__file__).resolve().parents[1]
CALL = {"type": "function", "function": {"name": "now", "arguments": {}}}
# Put together here, so that no scanner takes this file for a leak.
HYPHENS, SK = "-" * 5, "sk" + "-"


PARAMS = read_yaml(ROOT / "params.yaml")["preprocess"]


def config(**changes: Any) -> checks.PreprocessParams:
    """Give the repository's own params, changed."""
    return checks.PreprocessParams.model_validate(PARAMS | changes)


def talk(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def clean(row: dict[str, Any], special: str = "<end>", **changes: Any) -> dict[str, Any]:
    return checks.clean(row, checks.text(row), config(**changes), re.compile(special) if special else None)


def flaw(row: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(Flaw) as caught:
        clean(row, **changes)
    return str(caught.value)


@pytest.mark.parametrize("odd", [*"\0\1\b\x0b\x0c\x0e\x1b\x1f\x7f\x80\x85\x9f\ufdd0\ufffe\uffff"])
def test_control_characters_are_dropped_or_taken_out_or_kept(odd: str) -> None:
    for row, stripped in (
        ({"text": f"a{odd}b"}, {"text": "ab"}),
        (talk(f"a{odd}b"), talk("ab")),
        (talk("a", tools=[{"function": {odd: f"{odd}b"}}]), talk("a", tools=[{"function": {"": "b"}}])),
    ):
        assert flaw(row, control_characters="drop") == flaw(row, control_characters="error") == "control_character"
        assert clean(row, control_characters="strip") == stripped
        assert clean(row, control_characters="keep") == row


def test_line_ends_tabs_and_every_printed_character_are_no_control_characters() -> None:
    text = "\t\r\n ü 漢字 😀 e\u0301 \u200b \u200d \u2028 \ufeff \u00ad \ue000 \U0010fffd \u202e"
    for policy in ("error", "drop", "strip", "keep"):
        assert clean({"text": text}, control_characters=policy) == {"text": text}


def test_tool_calls_are_stripped_too() -> None:
    call = {"type": "function", "function": {"name": "n\0ow", "arguments": {"a\0": ["\0b", 1, None]}}}
    row = talk("a")
    row["messages"][1] |= {"content": "", "tool_calls": [call]}
    found = clean(row, control_characters="strip")
    arguments = {"name": "now", "arguments": {"a": ["b", 1, None]}}
    assert found["messages"][1]["tool_calls"] == [{"type": "function", "function": arguments}]


def test_what_is_empty_without_its_control_characters_is_dropped_as_empty() -> None:
    assert flaw({"text": "\0 \0"}, control_characters="strip") == "empty_answer"
    assert flaw(talk("a", "\0"), control_characters="strip") == "empty_answer"
    assert flaw(talk("\0"), control_characters="strip") == "empty_question"


def test_special_tokens_are_found_wherever_text_stands() -> None:
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
        assert flaw(row) == "special_token"
        assert clean(row, special="") == row
    for row in ({"text": "<END> < end> <|end|>"}, talk("<en", "d>")):
        assert clean(row) == row


def test_what_is_left_without_control_characters_is_searched_for_special_tokens() -> None:
    assert flaw(talk("<e\0nd>"), control_characters="strip") == "special_token"


LANGUAGES = {
    "en": "The quick brown fox jumps over the lazy dog while it rains.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund.",
    "fr": "Le renard brun saute par-dessus le chien paresseux pendant qu'il pleut.",
    "zh": "今天天气很好我们一起去公园散步吧",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_told_apart(language: str) -> None:
    text = LANGUAGES[language]
    assert drafts._language_check([language])(text)
    assert drafts._language_check([language])(f"\n\n{text}\n{text}\r\n")
    assert drafts._language_check([*LANGUAGES])(text)
    assert not drafts._language_check([other for other in LANGUAGES if other != language])(text)
    assert drafts._language_check([])(text)


@pytest.mark.parametrize(
    "text", ["1 + 1 = 2", "😀", "\u200b", "\ufeff", "x" * 10_000, "__label__de", "\0", "\r", "?"]
)
def test_a_text_of_no_language_has_one_answer(text: str) -> None:
    check = drafts._language_check(["en"])
    assert check(text) == check(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("aws_access_key", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("aws_access_key", "key=ASIA" + "IOSFODNN7EXAMPLE;"),
        ("anthropic_key", f"{SK}ant-api03-" + "aB3_" * 10),
        ("github_token", "ghp_" + "a1B2" * 9),
        ("github_token", "github_pat_" + "a1B2_" * 10),
        ("gitlab_token", "glpat-" + "a1B2-" * 4),
        ("google_api_key", "AIza" + "a1B2-" * 7),
        ("hugging_face_token", "hf_" + "aBcDe" * 7),
        ("json_web_token", "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"),
        ("openai_key", SK + "a1B2" * 12),
        ("openai_key", f"{SK}proj-" + "a1_B-" * 10),
        ("private_key", f"{HYPHENS}BEGIN PRIVATE KEY{HYPHENS}"),
        ("private_key", f"{HYPHENS}BEGIN OPENSSH PRIVATE KEY{HYPHENS}\nb3BlbnNzaC1rZXktdjEA"),
        ("slack_token", "xoxb-" + "123456789012-a1B2c3"),
        ("stripe_key", "sk_live_" + "a1B2" * 6),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "card: 5500-0000-0000-0004."),
        ("credit_card", "378282246310005"),
        ("credit_card", "3782 822463 10005"),
        ("email", "Write to jane.doe+news@mail.example.co.uk, please"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("ip_address", "at 8.8.8.8, port 53"),
        ("ip_address", "It was 8.8.8.8."),
        ("phone", "+44 20 7946 0958"),
        ("phone", "call (555) 010-4477 now"),
        ("phone", "+491701234567"),
        ("us_social_security", "SSN 536-90-4399"),
    ],
)
def test_each_kind_of_secret_and_personal_data_is_seen(kind: str, text: str) -> None:
    assert list(patterns.kinds(text)) == [kind]
    assert list(patterns.kinds(f"Before it\n{text}\nand after, 12 words.")) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPL",  # one short
        "xAKIA" + "IOSFODNN7EXAMPLE",
        f"{SK}learn is a library",
        f"{SK}ant-hill",
        "ghp_short and github_pat_short",
        "glpat-short",
        "AIza is a prefix",
        "hf_hub_download(repo_id, filename)",
        "eyJust.eyJust.a",
        "BEGIN PUBLIC KEY: a PRIVATE KEY----- is not here",
        "xoxo, your friend",
        "sk_test_" + "a1B2" * 6,
        "4111 1111 1111 1112",  # checksum
        "3+15.00 or +17.5-2",
        "14000-3920-1000 and 2000000-400000",  # sums whose digits pass the checksum
        "123456789012",  # one digit short
        "3.1415926535897932384",
        "1234567890123456789012345",
        "a @ b, @home, x@localhost",
        "DE89 3704 0044 0532 0130 01",  # checksum
        "127.0.0.1, 192.168.0.1, 10.0.0.1",
        "256.1.1.1 and 1.2.3.4.5",
        "1 + 2 = 3, 2024-01-31, 1990 - 1995",
        "f(x) 123-4567",
        "1+441234567890",
        "000-12-3456, 536-00-4399, 900-12-3456",
        "1536-90-4399 and 536-90-43990",
        "",
    ],
)
def test_what_only_looks_like_a_secret_is_not_seen(text: str) -> None:
    assert list(patterns.kinds(text)) == []
    assert list(patterns.kinds(f"Before it\n{text}\nand after, 12 words.")) == []


def test_every_kind_has_its_tests() -> None:
    tested = test_each_kind_of_secret_and_personal_data_is_seen.pytestmark[0].args[1]
    assert {kind for kind, _ in tested} == set(patterns.KINDS)


def test_several_kinds_are_seen_in_one_text() -> None:
    assert set(patterns.kinds("mail a@example.com from 8.8.8.8 or +44 20 7946 0958")) == {
        "email",
        "ip_address",
        "phone",
    }


def test_long_odd_texts_are_gone_through_without_finds() -> None:
    for odd in ("a", "1 ", "+1 (", "A ", "a.b@", "1.1.", "-----BEGIN "):
        assert list(patterns.kinds(odd * 50_000)) == []


PASSAGE = "What is the capital of the country whose flag shows a red leaf, please?"


@pytest.fixture
def forbid(tmp_path: Path) -> Any:
    """Write a benchmark file and load its passages."""

    def forbid(name: str, text: str, size: int = 8) -> passages.Passages:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return passages.load(tmp_path, size)

    return forbid


def test_a_row_that_shares_a_passage_is_found_whatever_its_case_and_signs(forbid: Any) -> None:
    forbidden = forbid("a.jsonl", json.dumps({"question": PASSAGE, "answer": "Ottawa"}))
    for question in (
        PASSAGE,
        PASSAGE.upper(),
        "Tell me: what is the capital, of the country whose FLAG shows a leaf?",
    ):
        assert passages.shared(talk(question), forbidden)
        assert passages.shared(talk("Ask me something!", question), forbidden)
        assert passages.shared({"text": f"1. {question}"}, forbidden)
    for question in ("What is the capital of the country?", "Whose flag shows a red leaf?", "", "!?"):
        assert not passages.shared(talk(question), forbidden)
    assert not passages.shared({"text": "What is the capital of the land whose flag shows a red leaf"}, forbidden)


def test_a_short_prompt_counts_where_the_user_says_just_that(forbid: Any) -> None:
    forbidden = forbid("a.csv", "question,choices\nWho wrote Faust?,\n")
    assert passages.shared(talk("who wrote  'Faust'"), forbidden)
    assert not passages.shared(talk("Who wrote Faust, and when?"), forbidden)
    assert not passages.shared(talk("When?", "Who wrote Faust?"), forbidden)
    assert not passages.shared({"text": "Who wrote Faust?"}, forbidden)


def test_column_names_and_empty_columns_of_a_benchmark_forbid_nothing(forbid: Any) -> None:
    forbidden = forbid("a.jsonl", json.dumps({"question": {"text": PASSAGE}, "answer": "", "label": "?!"}))
    for question in ("question", "Text", "answer", "?", "😀"):
        assert not passages.shared(talk(question), forbidden)


def test_benchmarks_of_every_kind_are_read_and_none_is_needed(tmp_path: Path, forbid: Any) -> None:
    (tmp_path / "README.md").write_text(PASSAGE, encoding="utf-8")
    assert (
        passages.load(tmp_path, 13) == passages.load(tmp_path / "nowhere", 13) == passages.Passages(13, set(), set())
    )
    assert passages.shared(talk(PASSAGE), forbid("a.txt", PASSAGE))
    deep = '{"a":' * 900 + json.dumps(PASSAGE) + "}" * 900
    assert passages.shared(talk(PASSAGE), forbid("a.jsonl", deep))
    (tmp_path / "b.json").write_text("[1", encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"b\.json:1: not JSON"):
        passages.load(tmp_path, 13)


def test_every_reason_has_a_param_that_decides() -> None:
    for param, words in checks.REASONS.values():
        assert param in checks.PreprocessParams.model_fields
        assert words
    assert set(checks.REASONS) >= checks.WANTED
