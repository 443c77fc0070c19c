"""Rows: how many tokens the rows of each split have, from the prepared files, or else from the first raw rows."""

import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from stages.common import tokens
from stages.common.chat import ChatTokenizer
from stages.preprocess.params import PreprocessParams

SAMPLE = 500  # rows of a file that are prepared to see their tokens
COUNTED = 1 << 20  # bytes read at a time to count lines
BYTES_PER_TOKEN = 4  # of text whose tokenizer is not at hand: English with a vocabulary of 32,000 or more
MOST = 200_000  # rows whose lengths are kept one by one


class Lengths(NamedTuple):
    """The tokens of the rows of each split, and how many of them are in the loss.

    Attributes:
        train: tokens of each row.
        val: likewise.
        calibration: likewise.
        in_loss: share of the tokens that are in the loss.
        raw_rows: rows of data/raw that preprocess reads.
        seconds_per_row: of preparing a row, 0 where none was prepared.
        known: where this is from, as the plan says it.
        bytes: of data/prepared.
    """

    train: list[int]
    val: list[int]
    calibration: list[int]
    in_loss: float
    raw_rows: int
    seconds_per_row: float
    known: str
    bytes: int


def count_prepared(folder: Path) -> Lengths:
    """Read the lengths of the rows in data/prepared."""
    from stages.train.data import count_in_loss, row_lengths

    train = tokens.table(folder / "train.arrow")
    lengths = {name: row_lengths(folder / f"{name}.arrow") for name in ("train", "val", "calibration")}
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    share = count_in_loss(train) / max(1, sum(lengths["train"]))
    counted = len(lengths["train"]) + len(lengths["val"])
    return Lengths(**lengths, in_loss=share, raw_rows=counted, seconds_per_row=0, known=str(folder), bytes=size)


def count_raw(config: PreprocessParams, chat_tokenizer: ChatTokenizer | None, raw: Path) -> Lengths:
    """Prepare the first rows of each raw file as preprocess does, and take the others to be like them.

    Raises:
        click.ClickException: as preprocess: a file, or a setting for it, is wrong.
    """
    from stages.preprocess.sources import find_sources

    sources = find_sources(raw, config)
    lengths: list[int] = []
    in_loss = total = read = kept_rows = 0
    spent = 0.0
    for source in sources:
        count = count_rows(source, config.rows)
        begin = time.process_time()
        found = list(islice(prepared(source, config, chat_tokenizer), SAMPLE))
        spent += time.process_time() - begin
        read += len(found)
        kept = [(size, loss) for size, loss in found if size]
        in_loss += sum(loss for _, loss in kept)
        total += sum(size for size, _ in kept)
        rows = round(count * len(kept) / max(1, len(found)))
        kept_rows += rows
        sizes = [size for size, _ in kept]
        lengths += (sizes * -(-min(rows, MOST) // max(1, len(sizes))))[: min(rows, MOST)]
    raw_rows = sum(count_rows(source, config.rows) for source in sources)
    held = round(len(lengths) * config.val_fraction)
    step = max(1, round(1 / config.val_fraction)) if config.val_fraction else 0
    val = lengths[::step][:held] if step else []
    train = [size for place, size in enumerate(lengths) if not step or place % step or place // step >= held]
    known = "the first rows of each raw file" if chat_tokenizer else f"the raw files, {BYTES_PER_TOKEN} bytes a token"
    size = sum(source.path.stat().st_size for source in sources) + 2 * 9 * sum(lengths)
    return Lengths(
        train,
        val,
        train[: config.calibration_rows],
        in_loss / total if total else 0.0,
        raw_rows,
        spent / read if read and chat_tokenizer else 0.0,
        known,
        size,
    )


def prepared(
    source: Any, config: PreprocessParams, chat_tokenizer: ChatTokenizer | None
) -> Iterator[tuple[int, int]]:
    """Yield tokens and tokens in the loss of each row; 0 for a row that is dropped."""
    if chat_tokenizer is None:
        from stages.preprocess.readers import read_rows

        for row in islice(read_rows(source.path, source.params, folder=source.folder), SAMPLE):
            size = len(json.dumps(row.values, ensure_ascii=False, default=str).encode()) // BYTES_PER_TOKEN
            yield min(size, config.max_length), size // 2
        return
    from stages.preprocess.contamination import load_benchmarks
    from stages.preprocess.encode import encode_rows
    from stages.preprocess.filters import check_rows

    few = config.model_copy(update={"rows": min(SAMPLE, config.rows or SAMPLE)})
    texts = load_benchmarks(Path("data/benchmarks"), few.decontaminate_ngram)
    for batch in encode_rows(check_rows([source], chat_tokenizer, few, texts), chat_tokenizer, few):
        for one in batch:
            yield (0, 0) if one.drop_reason else (len(one.encoded.ids), one.encoded.mask.count(1))


def count_rows(source: Any, limit: int | None) -> int:
    """Count the rows of a raw file: lines, or what its own footer says; else by reading it."""
    from stages.preprocess.readers import file_kind, read_rows

    kind, packed = file_kind(source.path), source.path.suffix.lower() in (".gz", ".zst")
    if kind == ".parquet" and not packed:
        from pyarrow import parquet

        count = parquet.read_metadata(source.path).num_rows
    elif kind in (".jsonl", ".csv", ".tsv") and not packed:
        with source.path.open("rb") as file:
            count = sum(part.count(b"\n") for part in iter(lambda: file.read(COUNTED), b""))
    else:
        count = sum(1 for _ in islice(read_rows(source.path, source.params, folder=source.folder), limit))
    return min(count, limit) if limit else count
