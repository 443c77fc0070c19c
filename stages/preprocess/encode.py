"""Encode: rows rendered with the chat template and tokenised in batches, to token ids and loss masks.

While the tokenizer works on one batch with every core, the next one is read, checked and rendered: the tokenizer does
not hold Python's lock. Memory holds three batches, however many rows there are.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from stages.common import chat
from stages.common.chat import ChatTokenizer, Encoded
from stages.common.progress import track
from stages.preprocess.filters import RowState, context_text, drop, spoken_text
from stages.preprocess.lost_parts import find_lost, unwritten_ids
from stages.preprocess.over_length import truncate
from stages.preprocess.params import PreprocessParams
from stages.preprocess.row_values import DropRow
from stages.preprocess.served import REASON, Judge

BATCH = 1000  # rows
CHARACTERS = 1 << 23  # a batch with more characters ends earlier

Batch = list[RowState]


def encode_rows(rows: Iterable[RowState], chat_tokenizer: ChatTokenizer, config: PreprocessParams) -> Iterator[Batch]:
    """Render and tokenise the rows that are kept, and return all rows, in order, in batches.

    Raises:
        click.ClickException: a row with a drop reason that the params make an error.
    """
    waiting: deque[tuple[Batch, Future[list[Encoded]]]] = deque()
    judge = Judge(chat_tokenizer)
    with ThreadPoolExecutor(2) as tokenizer:  # one tokenizes while the other builds lists and masks
        for batch in _rendered_batches(rows, judge, config):
            texts = [row.rendered for row in batch if not row.drop_reason]
            waiting.append((batch, tokenizer.submit(chat.tokenize, chat_tokenizer, texts)))
            if len(waiting) > 1:
                yield _fit(*waiting.popleft(), judge, config)
        while waiting:
            yield _fit(*waiting.popleft(), judge, config)


def _rendered_batches(rows: Iterable[RowState], judge: Judge, config: PreprocessParams) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    with track(rows, "preprocess", " rows", unit_scale=True) as bar:
        for row in bar:
            if not row.drop_reason:
                _render(row, judge, config)
            batch.append(row)
            size += len(row.rendered[0])
            if len(batch) == BATCH or size > CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _render(row: RowState, judge: Judge, config: PreprocessParams) -> None:
    """Render a row, and drop it where the template rejects it, leaves out a part of it, or asks in another way."""
    problem = ""
    try:
        text, spans = chat.render(judge.chat_tokenizer, row.content)
        row.served = judge.find(row.content, text, spans)
    except chat.Refused as refused:
        drop(row, "template_refused", config, refused.reason)
        return
    except DropRow as dropped:
        problem = dropped.detail
    if lost := find_lost(row.content, text, spans, row.served.left_out):
        drop(row, "lost_by_template", config, lost)
        return
    if problem:
        drop(row, REASON, config, judge.explain(row.content, problem))
        return
    if any(len(message) > 2 for message in row.content.get("messages", ())):
        row.source.reading.unread.update(unwritten_ids(row.content, text))
    row.rendered = text, row.served.spans


def _fit(batch: Batch, tokens: "Future[list[Encoded]]", judge: Judge, config: PreprocessParams) -> Batch:
    """Set the tokens of each row. Truncate or drop rows that are too long, drop rows without a supervised token."""
    for row, encoded in zip((row for row in batch if not row.drop_reason), tokens.result(), strict=True):
        row.encoded = encoded
        if len(encoded.ids) > config.max_length and config.over_length == "truncate":
            cut = truncate(row.content, row.rendered, encoded, judge, config.max_length)
            if cut:
                row.content, row.rendered, row.encoded, row.served = cut
                row.tokens_cut += len(encoded.ids) - len(row.encoded.ids)
        if len(row.encoded.ids) > config.max_length:
            drop(row, "over_length", config)
        elif 1 not in row.encoded.mask:
            drop(row, "no_supervised_token", config)
        else:
            if row.tokens_cut:  # two rows may differ only in what was cut off
                row.spoken, row.context = spoken_text(row.content, "\0"), context_text(row.content)
            _judge_tokens(row, judge, config)
    return batch


def _judge_tokens(row: RowState, judge: Judge, config: PreprocessParams) -> None:
    """Compare the ids of a row with those of its prompts, and see whether each answer ends in a stop token."""
    if "text" in row.content:
        row.ends_in_stop = True
        return
    try:
        row.encoded, row.served = judge.compare(row.rendered[0], row.served, row.encoded)
    except DropRow as dropped:
        drop(row, dropped.reason, config, judge.explain(row.content, dropped.detail))
        return
    row.ends_in_stop = judge.missing_stops(row.encoded) <= row.served.other_ends
