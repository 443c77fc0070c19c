"""Packing: rows laid end to end without padding, and the proof that they do not see each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
import trl

if TYPE_CHECKING:
    from datasets import Dataset


def pack(rows: "Dataset", lengths: list[int], arguments: trl.SFTConfig, file: Path, params: Path) -> "Dataset":
    """Lay rows end to end, best fit first, into rows of at most `max_length` tokens; none is cut.

    Args:
        rows: token ids and labels.
        lengths: tokens of each row.
        arguments: the trainer's config, with packing.
        file: where the packed rows go, as they may be more than memory holds.
        params: the params file, for messages.

    Returns:
        Rows of the same columns, and `seq_lengths`: the tokens of each row in a packed one.

    Raises:
        click.ClickException: a row that is longer.
    """
    if arguments.max_length is None or max(lengths) > arguments.max_length:
        raise click.ClickException(
            f"{params}: train.sft.max_length: must be at least {max(lengths)}, the longest row's tokens, as packing "
            f"cuts none (got {arguments.max_length})"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    caching = {"cache_file_name": str(file), "load_from_cache_file": False, "desc": "packing"}
    return trl.pack_dataset(rows, arguments.max_length, "bfd", caching)


def rows(batch: dict[str, Any]) -> list[list[int]]:
    """Give the token ids of each row of a batch, packed or padded, without padding."""
    ids = batch["input_ids"].tolist()
    if "position_ids" not in batch:
        return [row[:length] for row, length in zip(ids, batch["attention_mask"].sum(1).tolist(), strict=True)]
    starts = [place for place, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
    return [ids[0][start:end] for start, end in zip(starts, [*starts[1:], len(ids[0])], strict=True)]


def require_isolation(params: Path, model: Any, collate: Any) -> None:
    """Try that a packed row's logits are the same whatever stands before it in the pack.

    Args:
        params: the params file, for messages.
        model: the model as it is trained.
        collate: the trainer's collator.

    Raises:
        click.ClickException: they are not: the model's attention, or another layer, looks over the rows' borders.
    """
    second = [5, 6, 7, 8, 9, 10, 11]
    logits = []
    training = model.training
    model.eval()  # dropout would differ
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
            f"{model.config._attn_implementation} lets packed rows see each other; delete packing and padding_free, "
            "train_sampling_strategy: group_by_length spares padding, too"
        )
