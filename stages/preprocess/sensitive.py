"""Sensitive: patterns for secrets and personal data, fast enough to search every row.

A kind may have a sign and hints: its pattern is searched only in a text with the sign and one of the hints. It may
have a checksum.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Pattern(NamedTuple):
    """How texts of one kind look.

    Attributes:
        sign: a character that each of them has; one character is found faster than a hint.
        hints: each of them has at least one of these; none: any may be one.
        regex: what they match.
        valid: their checksum.
    """

    sign: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]
    valid: Callable[[str], bool] | None = None


def _public_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _card(text: str) -> bool:
    from stdnum import luhn

    return luhn.is_valid(re.sub(r"[ -]", "", text))


def _telephone(text: str) -> bool:
    return sum(map(str.isdigit, text)) >= 8  # fewer digits are numbers such as +15.00


def _iban(text: str) -> bool:
    from stdnum import iban

    return iban.is_valid(text)


def _social_security(text: str) -> bool:
    from stdnum.us import ssn

    return ssn.is_valid(text)


# From each vendor's documentation of its keys.
SECRETS = {
    "aws_access_key": Pattern("A", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    "anthropic_key": Pattern("-", ("sk-ant-",), re.compile(r"\bsk-ant-[\w-]{32,}")),
    "github_token": Pattern(
        "_",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{36,})"),
    ),
    "gitlab_token": Pattern("-", ("glpat-",), re.compile(r"\bglpat-[\w-]{20,}")),
    "google_api_key": Pattern("A", ("AIza",), re.compile(r"\bAIza[\w-]{35}")),
    "hugging_face_token": Pattern("_", ("hf_",), re.compile(r"\bhf_[A-Za-z]{30,}\b")),
    "json_web_token": Pattern(".", ("eyJ",), re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    "openai_key": Pattern("-", ("sk-",), re.compile(r"\bsk-(?!ant-)(?:[a-z]+-)?[A-Za-z0-9_-]{32,}")),
    "private_key": Pattern("-", ("PRIVATE KEY-----",), re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    "slack_token": Pattern("-", ("xox",), re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
    "stripe_key": Pattern("_", ("_live_",), re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}")),
}
PERSONAL_DATA = {
    "credit_card": Pattern(
        "",
        (),
        re.compile(
            r"(?<![\d.-])(?=[2-6])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?!\d|[.-]\d)"
        ),
        _card,
    ),
    "email": Pattern("@", (), re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}")),
    "iban": Pattern("", (), re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), _iban),
    "ip_address": Pattern(".", (), re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)"), _public_address),
    "phone": Pattern(
        "",
        ("+", ") "),
        re.compile(r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d|\(\d{3}\) \d{3}-\d{4})\b"),
        _telephone,
    ),
    "us_social_security": Pattern("-", (), re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), _social_security),
}
KINDS = SECRETS | PERSONAL_DATA
# A text without this has no number of any of these kinds. Most rows need no further search for them.
NUMBER = re.compile(r"\d[\d ().-]{5,}")
NUMBERS = {"credit_card", "iban", "ip_address", "phone", "us_social_security"}
WORDS = {kind: pattern for kind, pattern in KINDS.items() if kind not in NUMBERS}


def find_kinds(text: str) -> Iterator[str]:
    """List the kinds of SECRETS and PERSONAL_DATA in a text."""
    for kind, (sign, hints, regex, valid) in (KINDS if has_number(text) else WORDS).items():
        if sign not in text:
            continue
        if hints and not any(hint in text for hint in hints):
            continue
        if valid is None:
            if regex.search(text):
                yield kind
        elif any(valid(match.group()) for match in regex.finditer(text)):
            yield kind


def has_number(text: str) -> bool:
    """Whether a text has a number that may be of one of the NUMBERS."""
    if text.isascii() and not any(digit in text for digit in "0123456789"):
        return False  # in most texts, and found faster than by the pattern
    return NUMBER.search(text) is not None
