"""Checks: what may be wrong with a row that could be read, and the name under which it is then counted."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import Field, PositiveInt

from stages.common import settings
from stages.common.conversation import Flaw, Row, conversation

# Why a row may be left out: the key of params.yaml's preprocess section that decides, and the reason in words.
REASONS = {
    "not_an_object": ("invalid_row", "it is no object with named values"),
    "wrong_type": ("invalid_row", "a part is missing or of another type than its form says"),
    "not_text": ("invalid_row", "a message holds something else than text"),
    "unknown_role": ("invalid_row", "a message's role is unknown"),
    "roles_out_of_order": ("invalid_row", "user and assistant do not speak by turns"),
    "empty_question": ("invalid_row", "a user's message is empty"),
    "invalid_unicode": ("invalid_row", "bytes that are not UTF-8, or half a character"),
    "template_refused": ("invalid_row", "the chat template refuses it"),
    "lost_by_template": ("invalid_row", "the chat template leaves a part of it out"),
    "no_supervised_token": ("invalid_row", "nothing in it is learnt"),
    "empty_answer": ("empty_answer", "no answer"),
    "control_character": ("control_characters", "a control character stands in it"),
    "special_token": ("special_tokens", "its text holds a special token of the model"),
    "other_language": ("languages", "it is in another language"),
    "secret": ("secrets", "it holds what looks like a key or token"),
    "personal_data": ("personal_data", "it holds what looks like personal data"),
    "contaminated": ("decontaminate_ngram", "it shares a passage with data/benchmarks"),
    "over_length": ("over_length", "it has more than preprocess.max_length tokens"),
    "duplicate": ("duplicates", "an earlier row says the same"),
    "near_duplicate": ("near_duplicates", "an earlier row says nearly the same"),
}
# Left out because the params ask for it: no loss that preprocess.max_dropped_share has to guard against.
WANTED = {"contaminated", "duplicate", "other_language", "personal_data", "secret"}
# All of C0, DEL and C1 but tab and line ends, and the characters that Unicode keeps for no use.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


class FileParams(settings.Section):
    """params.yaml: preprocess.files.NAME: how to read the files whose name fits the pattern NAME."""

    format: Literal["alpaca", "messages", "prompt_completion", "sharegpt", "text"] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    sample_by: Literal["line", "paragraph", "document"] = "line"


class PreprocessParams(settings.Section):
    """params.yaml: preprocess."""

    seed: int = Field(ge=0, lt=2**64)
    val_fraction: float = Field(gt=0, lt=1)
    calibration_rows: PositiveInt
    max_length: PositiveInt
    over_length: Literal["error", "drop", "truncate"]
    empty_answer: Literal["error", "drop"]
    invalid_row: Literal["error", "drop"]
    control_characters: Literal["error", "drop", "strip", "keep"]
    special_tokens: Literal["error", "drop", "keep"]
    languages: list[str]
    duplicates: Literal["drop", "keep"]
    near_duplicates: Literal["drop", "keep"]
    near_duplicate_similarity: float = Field(gt=0, le=1)
    decontaminate_ngram: PositiveInt
    secrets: Literal["report", "drop"]
    personal_data: Literal["report", "drop"]
    max_dropped_share: float = Field(ge=0, le=1)
    read: list[str]
    files: dict[str, FileParams]


def strings(value: Any, *, names: bool = True) -> Iterator[str]:
    """Give every text in a row, with the names of what holds it (a tool's arguments, say) or without."""
    waiting = [value]  # no recursion: a raw row may be deeper than Python's stack
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            for name, inner in reversed(part.items()):
                waiting += (inner, name) if names else (inner,)
        elif isinstance(part, list):
            waiting += reversed(part)


def text(row: Row) -> str:
    """Give every text of a row: messages, tool calls, tools."""
    if "text" in row:
        return str(row["text"])
    return "\n".join([_joined(row["messages"], "\n"), *strings(row.get("tools"))])


def said(row: Row, between: str = "\n") -> str:
    """Give what a row says, message after message, without its system message and tools."""
    if "text" in row:
        return str(row["text"])
    return _joined((message for message in row["messages"] if message["role"] != "system"), between)


def orders(row: Row) -> str:
    """Give what a conversation is told beforehand, system message and tools, and who speaks in it."""
    if "text" in row:
        return ""
    roles = "".join(message["role"][0] for message in row["messages"])
    told = _joined((message for message in row["messages"] if message["role"] == "system"), "\0")
    return "\0".join([roles, told, *strings(row.get("tools"))])


def _joined(messages: Iterable[dict[str, Any]], between: str) -> str:
    parts: list[str] = []
    for message in messages:
        parts.append(message["content"])
        if len(message) > 2:
            parts += strings([part for key, part in message.items() if key not in ("role", "content")])
    return between.join(parts)


def clean(row: Row, text: str, config: PreprocessParams, special: re.Pattern[str] | None) -> Row:
    """Check a row's text, and take control characters out where the params say so.

    Args:
        row: a row as stages.common.forms gives it.
        text: every text of it.
        config: what to look for.
        special: matches the special tokens of the model's tokenizer, None where they may stand.

    Raises:
        Flaw: it has to be left out.
    """
    # Most rows are printable as they stand, which is told ten times sooner than the pattern is searched.
    printable = text.replace("\n", "").replace("\t", "").isprintable()
    if config.control_characters != "keep" and not printable and CONTROL.search(text):
        if config.control_characters != "strip":
            raise Flaw("control_character")
        row = _stripped(row)
        # Anew: nothing may be left of an answer, and what is left may meet to a special token.
        if "messages" in row:
            row = conversation(row["messages"], row.get("tools"))
        elif not row["text"].strip():
            raise Flaw("empty_answer")
        text = "\n".join(strings(row))
    if special and special.search(text):
        raise Flaw("special_token")
    return row


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub("", value)
    if isinstance(value, dict):
        return {_stripped(key): _stripped(part) for key, part in value.items()}
    return [_stripped(part) for part in value] if isinstance(value, list) else value
