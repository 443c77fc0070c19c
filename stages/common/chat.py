"""Chat: messages to text, token ids and loss mask, with the model folder's own tokenizer and template.

Every stage that needs token ids takes them from here, so what preprocess checks is what train learns, merge
and eval score, and awq calibrates on. It needs neither torch nor transformers, whose imports would take longer
than the work; tests compare it with `transformers`' `apply_chat_template`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import jinja2
from tokenizers import Encoding, Tokenizer

from stages.common import template

# `{"messages": [...]}`, maybe with `"tools"`, or `{"text": ...}`, which no template touches.
Row = dict[str, Any]
# What a template raises that was not written for such a row: its own refusal, and mistakes in its expressions.
REFUSALS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Refused(click.ClickException):
    """The chat template cannot render a row."""


class Encoded(NamedTuple):
    """One conversation as the model sees it: a byte of `mask` for each of `ids`, 1 where the token is learnt."""

    ids: list[int]
    mask: bytes


@dataclass(frozen=True)
class Chat:
    """The tokenizer, compiled template and special tokens of one model folder."""

    tokenizer: Tokenizer
    template: jinja2.Template
    special: dict[str, str]
    stop_ids: frozenset[int]
    pad_id: int
    opening: str


def load(folder: Path) -> Chat:
    """Load the chat side of a model folder.

    Raises:
        click.ClickException: no tokenizer, no chat template, a template that is broken or without generation
            markers, or no stop token.
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
    if pad_id is None:  # padding is masked, so any token will do
        pad_id = min(stop_ids)
    bos = special.get("bos_token", "")
    opening = bos if bos and tokenizer.encode("").tokens[:1] == [bos] else ""
    return Chat(tokenizer, template.load(folder, config), special, stop_ids, pad_id, opening)


def render(chat: Chat, row: Row, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """Render a row to text.

    Args:
        chat: the model folder's chat side.
        row: a conversation, or plain text: that gets the tokenizer's own opening and end token, and is learnt whole.
        prompt: end with the header that asks for the assistant's next answer.

    Returns:
        The text, and the character ranges of it that are learnt: what lies between generation markers.

    Raises:
        Refused: the template refuses the messages, such as a role it does not know.
    """
    if "text" in row:
        text = f"{row['text']}{chat.special.get('eos_token', '')}"
        return chat.opening + text, [(len(chat.opening), len(chat.opening) + len(text))]
    spans: list[tuple[int, int]] = []
    parts: list[str] = []
    tracker: Any = chat.template.environment
    tracker.generation_log = (parts, spans)
    values = {"messages": row["messages"], "tools": row.get("tools"), "documents": None}
    try:
        for part in chat.template.generate(**values, add_generation_prompt=prompt, **chat.special):
            parts.append(part)
    except REFUSALS as error:
        start = row["messages"][0]["content"][:40]
        raise Refused(f"chat template: {error} (in the row that starts {start!r})") from None
    return "".join(parts), spans


def encode(chat: Chat, rows: list[Row]) -> list[Encoded]:
    """Turn rows into token ids and masks, all cores at once."""
    return tokenise(chat, [render(chat, row) for row in rows])


def tokenise(chat: Chat, rendered: list[tuple[str, list[tuple[int, int]]]]) -> list[Encoded]:
    """Turn rendered rows into token ids and masks, all cores at once."""
    encodings = chat.tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
    return [
        Encoded(encoding.ids, _mask(encoding, text, spans))
        for encoding, (text, spans) in zip(encodings, rendered, strict=True)
    ]


def encode_prompts(chat: Chat, rows: list[Row]) -> list[list[int]]:
    """Turn conversations that end before an assistant's answer into the token ids to continue."""
    texts = [render(chat, row, prompt=True)[0] for row in rows]
    return [encoding.ids for encoding in chat.tokenizer.encode_batch(texts, add_special_tokens=False)]


def _mask(encoding: Encoding, text: str, spans: list[tuple[int, int]]) -> bytes:
    """Mark the tokens that share a character with a span."""
    size = len(encoding)
    mask = bytearray(size)
    for start, end in spans:
        if start == end:
            continue
        # Asks for three characters' tokens: to list every token's offsets costs more than all else here.
        first, after = encoding.char_to_token(start), encoding.char_to_token(end)
        following = None if after is None else encoding.token_to_chars(after)
        if after is None and end == len(text):
            after, following = size, (end, end)
        if first is None or after is None or following is None or following[0] < end:
            # A character that no token stands for, or a token across the span's end.
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
