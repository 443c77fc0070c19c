"""Chat: from messages to text, token ids and loss mask, with the tokenizer and chat template of a model folder.

Every stage that needs token ids gets them from here: train, merge, eval and awq use those that preprocess checks. It
needs neither torch nor transformers, whose imports would take longer than the work; tests compare it with
`apply_chat_template` of transformers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import jinja2
from tokenizers import Encoding, Tokenizer

from stages.common import chat_template

# A conversation, `{"messages": [...]}` with or without `"tools"`, or plain text, `{"text": ...}`, without a template.
Row = dict[str, Any]
REASONING = "reasoning_content"  # the key of a message's reasoning in a Row
# What a template raises for a row that it does not support: its own refusal, or an error in an expression.
REFUSALS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Refused(click.ClickException):
    """The chat template cannot render a row.

    Attributes:
        reason: the template's own words.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Encoded(NamedTuple):
    """One row as the model sees it: token ids, and the loss mask with one byte per token, 1 if it is in the loss."""

    ids: list[int]
    mask: bytes


@dataclass(frozen=True)
class ChatTokenizer:
    """The tokenizer and chat template of one model folder.

    Attributes:
        tokenizer: without padding and truncation.
        template: the compiled chat template.
        special: the special tokens by their name in tokenizer_config.json, such as `eos_token`.
        stop_ids: the tokens that end an answer.
        pad_id: the token that fills up short rows.
        opening: the token that the tokenizer itself puts before a text, or "".
        reasoning_key: the key of a message under which the template reads its reasoning.
    """

    tokenizer: Tokenizer
    template: jinja2.Template
    special: dict[str, str]
    stop_ids: frozenset[int]
    pad_id: int
    opening: str
    reasoning_key: str = "reasoning_content"


def load(folder: Path) -> ChatTokenizer:
    """Load the tokenizer and chat template of a model folder.

    Raises:
        click.ClickException: no tokenizer, no stop token, no chat template, or a template with a syntax error or
            without generation markers.
    """
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.exists():
        raise click.ClickException(f"{tokenizer_file}: no such file; run `dvc repro base` first")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
    stop_ids = _stop_ids(folder, tokenizer, special)
    pad_id = tokenizer.token_to_id(special.get("pad_token", ""))
    if pad_id is None:  # any token works: padding is masked
        pad_id = min(stop_ids)
    bos = special.get("bos_token", "")
    opening = bos if bos and tokenizer.encode("").tokens[:1] == [bos] else ""
    template, reasoning_key = chat_template.load(folder, config)
    return ChatTokenizer(tokenizer, template, special, stop_ids, pad_id, opening, reasoning_key)


def render(chat_tokenizer: ChatTokenizer, row: Row, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """Render a row to text.

    Args:
        chat_tokenizer: tokenizer and chat template.
        row: a conversation, or plain text. Plain text gets the tokenizer's own opening token and end token, and all
            of it but the opening is in the loss.
        prompt: end with the header of the assistant's next answer (`add_generation_prompt`).

    Returns:
        The text, and its spans that are in the loss, (start, end) in characters: the text between generation markers,
        without that of messages with `"weight": 0`.

    Raises:
        Refused: the template does not support the messages, such as a role that it does not know, or it does not mark
            each answer by itself although one has weight 0.
    """
    if "text" in row:
        text = f"{row['text']}{chat_tokenizer.special.get('eos_token', '')}"
        return chat_tokenizer.opening + text, [(len(chat_tokenizer.opening), len(chat_tokenizer.opening) + len(text))]
    parts, spans = _run_template(chat_tokenizer, row, row["messages"], prompt)
    for message in row["messages"]:
        if "weight" in message:
            return "".join(parts), _in_loss(row["messages"], spans)
    return "".join(parts), spans


def render_prompt(chat_tokenizer: ChatTokenizer, row: Row, end: int | None = None) -> str:
    """Render what a server shows to the model to get the message that follows.

    Args:
        chat_tokenizer: tokenizer and chat template.
        row: a conversation.
        end: the number of messages to render; None: all.

    Raises:
        Refused: see `render`.
    """
    return "".join(_run_template(chat_tokenizer, row, row["messages"][:end], True)[0])


def _in_loss(messages: list[dict[str, Any]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out the generation blocks of answers with weight 0."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if len(spans) != len(answers):
        problem = f"{len(answers)} answers have {len(spans)} generation blocks, so one cannot be left out of the loss"
        raise Refused(f"chat template: {problem}", problem)
    return [span for span, answer in zip(spans, answers, strict=True) if answer.get("weight") != 0]


def _run_template(
    chat_tokenizer: ChatTokenizer, row: Row, messages: list[dict[str, Any]], prompt: bool
) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the parts of the text, in order, and where its generation blocks are."""
    spans: list[tuple[int, int]] = []
    parts: list[str] = []
    template, key = chat_tokenizer.template, chat_tokenizer.reasoning_key
    environment: Any = template.environment
    environment.generation_log = (parts, spans)
    if key != REASONING:
        messages = [one | {key: one[REASONING]} if REASONING in one else one for one in messages]
    values: dict[str, Any] = {**template.globals, **chat_tokenizer.special}
    values["messages"], values["tools"], values["documents"] = messages, row.get("tools"), None
    values["add_generation_prompt"] = prompt
    try:
        # What `template.generate` does, without its detours: every row is rendered at least twice.
        for part in template.root_render_func(environment.reuse_context(template, values)):
            parts.append(part)
    except REFUSALS as error:
        start = messages[0]["content"][:40]
        raise Refused(f"chat template: {error} (in the row that starts {start!r})", str(error)) from None
    return parts, spans


def encode(chat_tokenizer: ChatTokenizer, rows: list[Row]) -> list[Encoded]:
    """Turn rows into token ids and loss masks, on all cores."""
    return tokenize(chat_tokenizer, [render(chat_tokenizer, row) for row in rows])


def tokenize(chat_tokenizer: ChatTokenizer, rendered: list[tuple[str, list[tuple[int, int]]]]) -> list[Encoded]:
    """Turn rendered rows (text and spans, from `render`) into token ids and loss masks, on all cores."""
    encodings = chat_tokenizer.tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
    return [
        Encoded(encoding.ids, _mask(encoding, text, spans))
        for encoding, (text, spans) in zip(encodings, rendered, strict=True)
    ]


def without_answer(row: Row) -> Row:
    """Return a conversation up to its last answer in the loss, which is left out: what the model is asked."""
    messages = row["messages"]
    answers = [n for n, one in enumerate(messages) if one["role"] == "assistant" and one.get("weight") != 0]
    return row | {"messages": messages[: answers[-1]]}


def encode_prompts(chat_tokenizer: ChatTokenizer, rows: list[Row]) -> list[list[int]]:
    """Turn conversations that end before an assistant's answer into prompts: the token ids that a model continues."""
    texts = [render_prompt(chat_tokenizer, row) for row in rows]
    return [encoding.ids for encoding in chat_tokenizer.tokenizer.encode_batch(texts, add_special_tokens=False)]


def _mask(encoding: Encoding, text: str, spans: list[tuple[int, int]]) -> bytes:
    """Mark the tokens that share a character with a span."""
    size = len(encoding)
    mask = bytearray(size)
    for start, end in spans:
        if start == end:
            continue
        # Look up three characters: listing the offsets of every token takes longer than everything else here.
        first, after = encoding.char_to_token(start), encoding.char_to_token(end)
        following = None if after is None else encoding.token_to_chars(after)
        if after is None and end == len(text):
            after, following = size, (end, end)
        if first is None or after is None or following is None or following[0] < end:
            # A character in no token, or a token across the end of the span.
            return _mask_by_offsets(encoding.offsets, spans)
        mask[first:after] = b"\1" * (after - first)
    return bytes(mask)


def _mask_by_offsets(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> bytes:
    return bytes(any(left < end and right > start for start, end in spans if start < end) for left, right in offsets)


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _stop_ids(folder: Path, tokenizer: Tokenizer, special: dict[str, str]) -> frozenset[int]:
    file = folder / "generation_config.json"
    ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    if ids is None and "eos_token" in special:
        ids = tokenizer.token_to_id(special["eos_token"])
    if ids is None:
        raise click.ClickException(f"{folder}: no stop token; set eos_token_id in {file}")
    return frozenset(ids if isinstance(ids, list) else [ids])
