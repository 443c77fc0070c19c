"""Training rows: token ids and labels as the trainer reads them, packed where asked, and their order.

The token files of preprocess are memory-mapped; nothing is tokenised again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc
import torch
import trl
from datasets import Dataset

from stages.common import tokens

MEGABATCH = 50  # batches whose rows are sorted together by length


def load_rows(path: Path) -> Dataset:
    """Open a token file, memory-mapped, with labels beside it.

    TRL makes labels from `assistant_masks` only in the preparation that is skipped here.
    """
    return Dataset.from_file(str(path)).add_column("labels", labels(tokens.table(path)))


def labels(table: pa.Table) -> pa.ChunkedArray:
    """Compute the labels of each row: the token id where the loss mask is 1, else -100."""
    chunks = []
    for batch in table.to_batches():
        ids, mask = batch["input_ids"], batch["assistant_masks"]
        values = pc.if_else(pc.equal(mask.flatten(), 1), ids.flatten(), pa.scalar(-100, pa.int32()))
        chunks.append(pa.ListArray.from_arrays(pc.subtract(ids.offsets, ids.offsets[0]), values))
    return pa.chunked_array(chunks)


def count_in_loss(table: pa.Table) -> int:
    """Count the tokens that are in the loss."""
    return pc.sum(pc.list_flatten(table["assistant_masks"])).as_py()


def row_lengths(path: Path) -> list[int]:
    """Return the number of tokens of each row."""
    return pc.list_value_length(tokens.table(path)["input_ids"]).to_pylist()


def load_train_rows(path: Path, arguments: trl.SFTConfig, scratch: Path, params: Path) -> tuple[Dataset, list[int]]:
    """Open the train rows and, where the config asks for it, pack them.

    Packed rows are rows end to end, best fit first, of at most `max_length` tokens. No row is cut.

    Args:
        path: the token file.
        arguments: the trainer's config.
        scratch: the folder for packed rows, as memory may not hold them.
        params: the params file, for messages.

    Returns:
        Token ids and labels (packed: also `seq_lengths`, the lengths of the rows in each), and the tokens of each.

    Raises:
        click.ClickException: a row is longer than `max_length`.
    """
    rows = load_rows(path)
    lengths = pc.list_value_length(rows.data["input_ids"]).to_pylist()
    if not arguments.packing:
        return rows, lengths
    if arguments.max_length is None or max(lengths) > arguments.max_length:
        raise click.ClickException(
            f"{params}: train.sft.max_length: must be at least {max(lengths)}, the length of the longest row, as "
            f"packing cuts no row (got {arguments.max_length})"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / f"packed-{arguments.process_index}.arrow"
    caching = {"cache_file_name": str(file), "load_from_cache_file": False, "desc": "packing"}
    packed = trl.pack_dataset(rows, arguments.max_length, "bfd", caching)
    return packed, [sum(row) for row in packed["seq_lengths"]]


def require_isolation(params: Path, model: Any, collate: Any) -> None:
    """Check that the logits of a packed row do not depend on the row before it.

    Args:
        params: the params file, for messages.
        model: the model as it is trained.
        collate: the trainer's collator.

    Raises:
        click.ClickException: they do: the attention, or another layer, does not stop at the border of a row.
    """
    second = [5, 6, 7, 8, 9, 10, 11]
    logits = []
    training = model.training
    model.eval()  # without dropout
    with torch.no_grad():
        for first in ([1, 2, 3, 4], [4, 3, 2, 1]):
            batch = collate([{"input_ids": ids, "labels": ids} for ids in (first, second)])
            moved = {
                name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()
            }
            logits.append(model(**{**moved, "labels": None, "use_cache": False}).logits[0, len(first) :])
    model.train(training)
    if not torch.equal(*logits):
        raise click.ClickException(
            f"{params}: train.sft: {type(model).__name__} with attn_implementation "
            f"{model.config._attn_implementation} mixes packed rows; delete packing and padding_free, and set "
            "train_sampling_strategy: group_by_length, which also needs little padding"
        )


class GroupedByLength(torch.utils.data.Sampler):
    """Order of the rows: random, but the rows of a batch have similar lengths. The longest batch is first.

    So a batch that does not fit into memory fails at once. Each epoch has an order of its own, drawn from the seed.
    (The sampler of transformers draws from the global generator, whose state a resumed run does not have, and leaves
    the batches sorted by length.)
    """

    def __init__(self, lengths: list[int], size: int, seed: int) -> None:
        """Take the length of each row, the number of rows per optimizer step, and the seed."""
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        span = MEGABATCH * self.size
        sorted_ = [
            row
            for start in range(0, len(order), span)
            for row in sorted(order[start : start + span], key=lambda row: self.lengths[row], reverse=True)
        ]
        batches = [sorted_[start : start + self.size] for start in range(0, len(sorted_), self.size)]
        rest = batches.pop() if len(batches[-1]) < self.size else []
        drawn = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        longest = max(range(len(drawn)), key=lambda index: self.lengths[drawn[index][0]], default=0)
        ordered = [*drawn[longest : longest + 1], *drawn[:longest], *drawn[longest + 1 :], rest]
        return iter([row for batch in ordered for row in batch])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch


def batch_rows(batch: dict[str, Any]) -> list[list[int]]:
    """Return the token ids of each row of a batch, packed or padded, without padding."""
    ids = batch["input_ids"].tolist()
    if "position_ids" not in batch:
        return [row[:length] for row, length in zip(ids, batch["attention_mask"].sum(1).tolist(), strict=True)]
    starts = [index for index, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
    return [ids[0][start:end] for start, end in zip(starts, [*starts[1:], len(ids[0])], strict=True)]


def row_ids(path: Path, batch: dict[str, Any]) -> list[str]:
    """Find the raw rows of a batch in the manifest beside a token file.

    Args:
        path: `train.arrow` or `val.arrow`.
        batch: its rows, as the model gets them.

    Returns:
        `FILE:LINE` of each row; without a manifest its place in the token file.
    """
    import pyarrow.parquet as pq

    wanted = {tuple(row) for row in batch_rows(batch)}
    positions = [n for n, row in enumerate(tokens.read(path)) if tuple(row.ids) in wanted]
    manifest = path.with_name("manifest.parquet")
    if not manifest.exists():
        return [f"{path.name} row {position}" for position in positions]
    chosen = (pc.field("outcome") == path.stem) & pc.field("position").isin(positions)
    found = pq.read_table(manifest, columns=["file", "line"], filters=chosen).to_pylist()
    return [f"{row['file']}:{row['line']}" for row in found]
