"""Sensitive: every kind of secret and personal data is found, and what only looks like one is not."""

import pytest
from preparing import Prepare, counts, lines, talk

from stages.preprocess.sensitive import KINDS, find_kinds

# Assembled here, so that no scanner reports this file as a leak.
HYPHENS, SK = "-" * 5, "sk" + "-"


KNOWN = [
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
]


@pytest.mark.parametrize(("kind", "text"), KNOWN)
def test_each_kind_of_secret_and_personal_data_is_found(kind: str, text: str) -> None:
    assert list(find_kinds(text)) == [kind]
    assert list(find_kinds(f"Before it\n{text}\nand after, 12 words.")) == [kind]


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
        "14000-3920-1000 and 2000000-400000",  # subtractions whose digits pass the checksum
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
def test_a_text_that_only_looks_like_a_secret_is_not_found(text: str) -> None:
    assert list(find_kinds(text)) == []
    assert list(find_kinds(f"Before it\n{text}\nand after, 12 words.")) == []


def test_every_kind_has_its_tests() -> None:
    assert {kind for kind, _ in KNOWN} == set(KINDS)


def test_several_kinds_are_found_in_one_text() -> None:
    assert set(find_kinds("mail a@example.com from 8.8.8.8 or +44 20 7946 0958")) == {
        "email",
        "ip_address",
        "phone",
    }


def test_long_repetitive_texts_are_searched_quickly() -> None:
    for odd in ("a", "1 ", "+1 (", "A ", "a.b@", "1.1.", "-----BEGIN "):
        assert list(find_kinds(odd * 50_000)) == []


def test_secrets_and_personal_data_are_found_in_every_part_of_a_row(prepare: Prepare) -> None:
    asked = talk("Who?", "Ann")
    with_system = {
        "messages": [{"role": "system", "content": "Write to a@example.com"}, *talk("Who is it?", "Bob")["messages"]]
    }
    tools = talk("What for?", "Nothing") | {"tools": [{"name": "mail", "description": "to b@example.com"}]}
    folder = prepare({"a.jsonl": lines([asked, with_system, tools, *(talk(f"{n}?", "yes") for n in range(20))])})
    assert counts(folder)["examples"] == {"email": ["a.jsonl:2", "a.jsonl:3"]}
