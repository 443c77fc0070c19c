"""Batches: rows of similar length padded to one length, and a model's logits where it predicts assistant tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """Right-padded rows: token ids, attention mask and loss mask, each of shape (rows, tokens)."""

    ids: "torch.Tensor"
    attention: "torch.Tensor"
    mask: "torch.Tensor"


def padded(rows: list[TokenRow], batch_size: int) -> Iterator[Batch]:
    """Group rows by length and pad each group on the right.

    The longest rows come first, so that the batch that needs most memory fails first. Padding is token 0, which every
    model has: it follows the row, so no token of the row attends to it.
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
    """Compute the logits of the positions that predict an assistant token, and no others.

    Returns:
        Shape (assistant tokens, vocabulary), float32, on the model's device.
    """
    places = batch.mask[:, 1:].flatten().nonzero().squeeze(1)
    places += places // (batch.mask.shape[1] - 1)  # of rows with their last position, which predicts nothing
    with output_at(model, places.to(model.device)):
        logits = model(input_ids=batch.ids.to(model.device), attention_mask=batch.attention.to(model.device)).logits
    return logits.float()


@contextmanager
def output_at(model: Any, places: "torch.Tensor") -> Iterator[None]:
    """Let a model compute its output layer at some positions only: vocabularies are wide, and prompts need no logits.

    Args:
        model: a causal language model, or a PEFT model. Its logits then have the shape (positions, vocabulary).
        places: the positions, counted through all rows of the batch one after the other.
    """

    def choose(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, places), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def answer_tokens(batch: Batch) -> "torch.Tensor":
    """List the assistant tokens that `answer_logits` predicts, in the same order."""
    return batch.ids[:, 1:][batch.mask[:, 1:].bool()]
