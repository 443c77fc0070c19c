"""Sensitive: patterns for secrets and personal data, fast enough to search every row.

A kind may have hints: its pattern is searched only in a text with one of them. It may have a checksum.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Pattern(NamedTuple):
    """How texts of one kind look."""

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
    "aws_access_key": Pattern(("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    "anthropic_key": Pattern(("sk-ant-",), re.compile(r"\bsk-ant-[\w-]{32,}")),
    "github_token": Pattern(
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{36,})"),
    ),
    "gitlab_token": Pattern(("glpat-",), re.compile(r"\bglpat-[\w-]{20,}")),
    "google_api_key": Pattern(("AIza",), re.compile(r"\bAIza[\w-]{35}")),
    "hugging_face_token": Pattern(("hf_",), re.compile(r"\bhf_[A-Za-z]{30,}\b")),
    "json_web_token": Pattern(("eyJ",), re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    "openai_key": Pattern(("sk-",), re.compile(r"\bsk-(?!ant-)(?:[a-z]+-)?[A-Za-z0-9_-]{32,}")),
    "private_key": Pattern(("PRIVATE KEY-----",), re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    "slack_token": Pattern(("xox",), re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
    "stripe_key": Pattern(("_live_",), re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}")),
}
PERSONAL_DATA = {
    "credit_card": Pattern(
        (),
        re.compile(
            r"(?<![\d.-])(?=[2-6])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?!\d|[.-]\d)"
        ),
        _card,
    ),
    "email": Pattern(("@",), re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}")),
    "iban": Pattern((), re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), _iban),
    "ip_address": Pattern((".",), re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)"), _public_address),
    "phone": Pattern(
        ("+", ") "),
        re.compile(r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d|\(\d{3}\) \d{3}-\d{4})\b"),
        _telephone,
    ),
    "us_social_security": Pattern(("-",), re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), _social_security),
}
KINDS = SECRETS | PERSONAL_DATA
# A text without this has no number of any of these kinds. Most rows need no further search for them.
NUMBER = re.compile(r"\d[\d ().-]{5,}")
NUMBERS = {"credit_card", "iban", "ip_address", "phone", "us_social_security"}


def find_kinds(text: str) -> Iterator[str]:
    """List the kinds of SECRETS and PERSONAL_DATA in a text."""
    numbers = NUMBER.search(text) is not None
    for kind, pattern in KINDS.items():
        if pattern.hints:
            for hint in pattern.hints:
                if hint in text:
                    break
            else:
                continue
        if kind in NUMBERS and not numbers:
            continue
        found = (match.group() for match in pattern.regex.finditer(text))
        if any(pattern.valid is None or pattern.valid(match) for match in found):
            yield kind
