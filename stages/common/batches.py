"""Batches: rows of like length side by side, and a model's logits where answers are predicted."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common import tokens

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """Right-padded rows: token ids, attention mask and loss mask, each of shape (rows, tokens)."""

    ids: "torch.Tensor"
    attention: "torch.Tensor"
    mask: "torch.Tensor"


def padded(rows: list[tokens.TokenRow], batch_size: int) -> Iterator[Batch]:
    """Group rows by length, longest first (the batch that needs most memory fails first), and pad them.

    Padding is token 0, which every model has: it follows the row, where no token of the row can see it.
    """
    import torch

    ordered = sorted(rows, key=lambda row: len(row.ids), reverse=True)
    for start in range(0, len(ordered), batch_size):
        group = ordered[start : start + batch_size]
        width = len(group[0].ids)
        gaps = [width - len(row.ids) for row in group]
        yield Batch(
            torch.tensor([row.ids + [0] * gap for row, gap in zip(group, gaps, strict=True)]),
            torch.tensor([[1] * len(row.ids) + [0] * gap for row, gap in zip(group, gaps, strict=True)]),
            torch.tensor([row.mask + [0] * gap for row, gap in zip(group, gaps, strict=True)]),
        )


def answer_logits(model: Any, batch: Batch) -> "torch.Tensor":
    """Give float32 logits, shape (answer tokens, vocabulary), of the positions that predict an answer token."""
    logits = model(input_ids=batch.ids.to(model.device), attention_mask=batch.attention.to(model.device)).logits
    return logits[:, :-1][batch.mask[:, 1:].bool().to(model.device)].float()


def answer_tokens(batch: Batch) -> "torch.Tensor":
    """Give the answer tokens that `answer_logits` predicts, in the same order."""
    return batch.ids[:, 1:][batch.mask[:, 1:].bool()]
