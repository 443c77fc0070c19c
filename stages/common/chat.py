"""Chat: messages to text, token ids and loss mask, with the model folder's own tokenizer and template.

Every stage that needs token ids takes them from here, so what preprocess checks is what train learns, merge
and eval score, and awq calibrates on. It needs neither torch nor transformers, whose imports would take longer
than the work; tests compare it with `transformers`' `apply_chat_template`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

Messages = list[dict[str, Any]]


class Encoded(NamedTuple):
    """One conversation as the model sees it. `mask[i]` is 1 where token `ids[i]` is learnt."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class Chat:
    """The tokenizer, compiled template and special tokens of one model folder."""

    tokenizer: Tokenizer
    template: jinja2.Template
    special: dict[str, str]
    stop_ids: frozenset[int]
    pad_id: int


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
    return Chat(tokenizer, _template(folder, config), special, stop_ids, pad_id)


def render(chat: Chat, messages: Messages, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """Render messages to text.

    Args:
        chat: the model folder's chat side.
        messages: the conversation.
        prompt: end with the header that asks for the assistant's next answer.

    Returns:
        The text, and the character ranges of it that lie between generation markers.

    Raises:
        click.ClickException: the template refuses the messages, such as a role it does not know.
    """
    spans: list[tuple[int, int]] = []
    parts: list[str] = []
    tracker: Any = chat.template.environment
    tracker.generation_log = (parts, spans)
    values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
    try:
        for part in chat.template.generate(**values, **chat.special):
            parts.append(part)
    except jinja2.TemplateError as error:
        start = messages[0]["content"][:40]
        raise click.ClickException(f"chat template: {error} (in the row that starts {start!r})") from None
    return "".join(parts), spans


def encode(chat: Chat, rows: list[Messages]) -> list[Encoded]:
    """Turn conversations into token ids and masks, all cores at once."""
    rendered = [render(chat, messages) for messages in rows]
    encodings = chat.tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
    return [
        Encoded(encoding.ids, _mask(encoding.offsets, spans))
        for encoding, (_, spans) in zip(encodings, rendered, strict=True)
    ]


def encode_prompts(chat: Chat, rows: list[Messages]) -> list[list[int]]:
    """Turn conversations that end before an assistant's answer into the token ids to continue."""
    texts = [render(chat, messages, prompt=True)[0] for messages in rows]
    return [encoding.ids for encoding in chat.tokenizer.encode_batch(texts, add_special_tokens=False)]


def _mask(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    mask = [0] * len(offsets)
    for start, end in spans:
        for index, (left, right) in enumerate(offsets):
            if left < end and right > start:
                mask[index] = 1
    return mask


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


def _template(folder: Path, config: dict[str, Any]) -> jinja2.Template:
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
    if not source:
        raise click.ClickException(f"{folder}: no chat template (chat_template.jinja); set base.chat_template")
    if not has_markers(source):
        raise click.ClickException(
            f"{file}: no {{% generation %}} markers around the assistant's answer, so nothing says what to "
            "learn; set base.chat_template to one with them"
        )
    # The settings of transformers' own environment, except `strftime_now`: a template that writes today's
    # date would make tomorrow's tokens differ, and such templates fall back to a fixed date without it.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise click.ClickException(f"{file}:{error.lineno}: {error.message}; mend the template") from None


def has_markers(source: str) -> bool:
    """Whether a chat template marks the assistant's answers: the test that transformers and TRL make, too."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: render the body and log where in the text it stands."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_log"), [], [], body).set_lineno(line)

    def _log(self, caller: Any) -> str:
        text = caller()
        log: Any = self.environment
        parts, spans = log.generation_log
        start = sum(map(len, parts))
        spans.append((start, start + len(text)))
        return text


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **kwargs: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **kwargs)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
