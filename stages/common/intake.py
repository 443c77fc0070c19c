"""Intake: raw rows read, turned into conversations, checked, rendered and tokenised, batch by batch.

While the tokenizer works on one batch with every core, the next one is read and checked: the tokenizer holds no lock
that Python needs. Memory holds three batches, however many rows there are.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path

import click
from tqdm import tqdm

from stages.common import chat, drafts, forms, passages, raw
from stages.common.checks import FileParams, PreprocessParams
from stages.common.drafts import Draft, Source

BATCH = 1000  # rows
CHARACTERS = 1 << 23


def sources(folder: Path, config: PreprocessParams) -> list[Source]:
    """List the files to read with the form of each, told by its first row where the params do not.

    Raises:
        click.ClickException: a pattern of the params that fits no file, or a file of no known form.
    """
    found = raw.paths(folder)
    for key, patterns in (("read", config.read), ("files", config.files)):
        for pattern in patterns:
            if not any(fnmatch(path.name, pattern) for path in found):
                raise click.ClickException(f"preprocess.{key}: {pattern}: no such file in {folder}")
    read = [path for path in found if any(fnmatch(path.name, pattern) for pattern in config.read)]
    if not read:
        raise click.ClickException(f"preprocess.read: empty; name the files of {folder} to read, or ['*'] for all")
    return [_source(path, config.files) for path in read]


def _source(path: Path, given: dict[str, FileParams]) -> Source:
    params = next((params for pattern, params in given.items() if fnmatch(path.name, pattern)), FileParams())
    known = set(chain.from_iterable(chain(forms.NEEDS[form], forms.MAY_HAVE[form]) for form in forms.NEEDS))
    for name in params.columns:
        if name not in known:
            message = f"preprocess.files: {path.name}: columns: {name}: unknown; known are {', '.join(sorted(known))}"
            raise click.ClickException(message)
    rows = raw.rows(path, params.sample_by)
    first = next((row.values for row in islice(rows, BATCH) if isinstance(row.values, dict)), {})
    form = params.format or forms.detect(first, params.columns)
    if form is None:
        columns = ", ".join(name if name.isprintable() else ascii(name) for name in sorted(first)) or "none"
        raise click.ClickException(
            f"{path}: no known form (columns: {columns}); name them in preprocess.files, see docs/data.md"
        )
    return Source(path, form, params)


def batches(
    found: list[Source], speaker: chat.Chat, config: PreprocessParams, forbidden: passages.Passages
) -> Iterator[list[Draft]]:
    """Give every raw row, tokenised unless it is left out, in order, in batches of BATCH.

    Raises:
        click.ClickException: a broken file, or a row that the params make an error.
    """
    check = drafts.checker(speaker, config, forbidden)
    rows = (
        check(number, source, row)
        for number, source in enumerate(found)
        for row in raw.rows(source.path, source.params.sample_by)
    )
    waiting: deque[tuple[list[Draft], Future[list[chat.Encoded]]]] = deque()
    with ThreadPoolExecutor(1) as tokenizer:
        for batch in _grouped(rows):
            texts = [draft.rendered for draft in batch if not draft.reason]
            waiting.append((batch, tokenizer.submit(chat.tokenise, speaker, texts)))
            if len(waiting) > 1:
                yield _measured(*waiting.popleft(), found, speaker, config)
        while waiting:
            yield _measured(*waiting.popleft(), found, speaker, config)


def _grouped(rows: Iterable[Draft]) -> Iterator[list[Draft]]:
    """Gather BATCH rows, or fewer where they are long."""
    batch: list[Draft] = []
    size = 0
    with tqdm(rows, desc="preprocess", unit=" rows", unit_scale=True, disable=None) as bar:
        for draft in bar:
            batch.append(draft)
            size += len(draft.rendered[0])
            if len(batch) == BATCH or size > CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _measured(
    batch: list[Draft],
    tokens: "Future[list[chat.Encoded]]",
    found: list[Source],
    speaker: chat.Chat,
    config: PreprocessParams,
) -> list[Draft]:
    """Hand each row its tokens; leave out, or shorten, what is too long, and leave out what would teach nothing."""
    for draft, encoded in zip((draft for draft in batch if not draft.reason), tokens.result(), strict=True):
        draft.encoded = encoded
        too_long = len(encoded.ids) > config.max_length
        if too_long and not (config.over_length == "truncate" and _shortened(draft, speaker, config.max_length)):
            draft.reason = "over_length"
        elif 1 not in draft.encoded.mask:
            draft.reason = "no_supervised_token"
        if draft.reason:
            drafts.refuse(draft, found[draft.file], config)
        else:
            if draft.cut:
                drafts.compare_by(draft)  # what was cut off may be all that told it from another row
            draft.stops = "text" in draft.row or _ends_supervised(draft.encoded, speaker)
    return batch


def _ends_supervised(encoded: chat.Encoded, speaker: chat.Chat) -> bool:
    """Whether the last token that a row teaches is a stop token; TRL's templates teach a newline after it."""
    taught = (token for token, learnt in zip(reversed(encoded.ids), reversed(encoded.mask), strict=True) if learnt)
    for token in taught:
        if token in speaker.stop_ids:
            return True
        if speaker.tokenizer.decode([token], skip_special_tokens=False).strip():
            return False
    return False


def _shortened(draft: Draft, speaker: chat.Chat, limit: int) -> bool:
    """Cut plain text at the limit, a conversation after the last whole answer that fits; tell whether one does."""
    size = len(draft.encoded.ids)
    if "text" in draft.row:
        text, spans = draft.rendered
        end = speaker.tokenizer.encode(text, add_special_tokens=False).offsets[limit - 1][1]
        draft.row = {"text": text[spans[0][0] : end]}
        draft.encoded = chat.Encoded(draft.encoded.ids[:limit], draft.encoded.mask[:limit])
        draft.cut = size - limit
        return True
    messages = draft.row["messages"]
    answers = [
        n for n, message in enumerate(messages) if message["role"] == "assistant" and "tool_calls" not in message
    ]
    for last in reversed(answers[:-1]):
        row = draft.row | {"messages": messages[: last + 1]}
        encoded = chat.encode(speaker, [row])[0]
        if len(encoded.ids) <= limit:
            draft.row, draft.encoded, draft.cut = row, encoded, size - len(encoded.ids)
            return True
    return False
