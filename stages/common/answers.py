"""Answers: what val asks, what it wants to hear, what a model says, and the texts outside the task."""

import json
from pathlib import Path

import click

from stages.common import chat, scores
from stages.common.chat import Chat
from stages.common.tokens import TokenRow


def question(row: chat.Row) -> chat.Row:
    """Give a conversation up to the answer that is wanted."""
    return row | {"messages": row["messages"][:-1]}


def wanted(row: TokenRow, speaker: Chat) -> str:
    """Give the last answer that a row teaches as the model would say it: text, or the template's form of tool calls.

    A template that writes more into an answer than the row holds, such as an empty thought, is followed so, too.
    """
    end = len(row.mask) - row.mask[::-1].index(1)
    start = end - [*row.mask[:end][::-1], 0].index(0)
    taught = row.ids[start:end]
    while taught and (taught[-1] in speaker.stop_ids or not speaker.tokenizer.decode(taught[-1:]).strip()):
        taught.pop()  # TRL's templates teach a newline after the stop token
    return speaker.tokenizer.decode(taught).strip()


def given(said: list[int], speaker: Chat) -> tuple[str, bool]:
    """Give what a model said without special tokens, and whether it ended by itself."""
    ends = [place for place, token in enumerate(said) if token in speaker.stop_ids]
    return speaker.tokenizer.decode(said[: ends[0]] if ends else said), bool(ends)


def weigh(row: TokenRow, loss: float) -> scores.Row:
    """Give what a row's learnt tokens cost in nats, and how many of them are predicted: all but a row's first."""
    return {"loss": round(loss, 6), "tokens": sum(row.mask[1:])}


def passages(path: Path, speaker: Chat) -> list[TokenRow]:
    """Read texts, one `{"text": ...}` a line, as tokens that all count; no end token, which fine-tuning moves.

    Raises:
        click.ClickException: no such file, or a line without a text.
    """
    if not path.exists():
        raise click.ClickException(f"{path}: no such file; `git checkout {path}` brings it back")
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            texts += [speaker.opening + json.loads(line)["text"]] if line else []
        except (ValueError, TypeError, LookupError):
            raise click.ClickException(f'{path}:{number}: a line must be like {{"text": "A few words."}}') from None
    if not texts:
        raise click.ClickException(f"{path}: no texts; `git checkout {path}` brings them back")
    encodings = speaker.tokenizer.encode_batch(texts, add_special_tokens=False)
    return [TokenRow(encoding.ids, [1] * len(encoding.ids)) for encoding in encodings]


def score(
    rows: list[chat.Row], encoded: list[TokenRow], losses: list[float], said: list[list[int]], speaker: Chat
) -> list[scores.Row]:
    """Put together what is known of every val row.

    Args:
        rows: the conversations and texts.
        encoded: their tokens.
        losses: the nats that each row's learnt tokens cost.
        said: the model's tokens, for each row that asks something.
        speaker: the model's chat side.
    """
    asked = [place for place, row in enumerate(rows) if "messages" in row]
    references = [wanted(encoded[place], speaker) for place in asked]
    replies = [given(ids, speaker) for ids in said]
    marks = scores.of_answers(references, [text for text, _ in replies])
    found: list[scores.Row] = [{key: row[key] for key in ("text", "tools") if key in row} for row in rows]
    for place, reference, (text, stopped), mark in zip(asked, references, replies, marks, strict=True):
        found[place] |= {"question": rows[place]["messages"][:-1], "reference": reference, "answer": text}
        found[place] |= {"stopped": stopped, **mark}
    return [row | weigh(tokens, loss) for row, tokens, loss in zip(found, encoded, losses, strict=True)]
