"""Fit: the largest batch that the memory holds, and what to change where a stage does not fit."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from stages.common.device import Device
from stages.train.data import GroupedByLength
from stages.train.memory import largest_batch
from stages.train.params import TrainParams
from tools.plan.memory import Need, train_need, trained_outline

Change = dict[str, Any]


class Training:
    """A training whose memory can be asked for with other settings.

    Args:
        config: the base model's.
        train: the section train.
        lora: the adapter's config, also for `train.method: full`.
        arguments: the trainer's config.
        lengths: tokens of the train rows.
        in_loss: share of them that is in the loss.
        stored: bytes of the base model's files.
        device: where it computes.
    """

    def __init__(
        self,
        config: Any,
        train: TrainParams,
        lora: Any,
        arguments: Any,
        lengths: list[int],
        in_loss: float,
        stored: float,
        device: Device,
    ) -> None:
        self.config, self.train, self.lora, self.arguments = config, train, lora, arguments
        self.lengths, self.in_loss, self.stored, self.device = lengths, in_loss, stored, device

    def need(self, size: int, checkpointing: bool | None = None, method: str = "") -> Need:
        """Compute the memory of a step.

        Args:
            size: rows in one forward pass.
            checkpointing: gradient_checkpointing; None: as it is set.
            method: train.method; empty: as it is set.
        """
        arguments = copy.copy(self.arguments)
        arguments.per_device_train_batch_size = size
        if checkpointing is not None:
            arguments.gradient_checkpointing = checkpointing
        train = self.train.model_copy(update={"method": method or self.train.method})
        model = trained_outline(self.config, train, self.lora, arguments, self.device)
        return train_need(model, train, arguments, self.collate(arguments), self.stored)

    def collate(self, arguments: Any) -> dict[str, Any]:
        """Make the largest batch, as the trainer's collator does."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        packed = arguments.packing and arguments.max_length
        lengths = packed_lengths(self.lengths, arguments.max_length) if packed else self.lengths
        group = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        places = largest_batch(GroupedByLength(lengths, group, arguments.data_seed), arguments)
        rows = []
        for size in (lengths[place] for place in places):
            loss = max(1, round(size * self.in_loss))
            row: dict[str, Any] = {"input_ids": [0] * size, "labels": [-100] * (size - loss) + [1] * loss}
            rows.append(row | ({"seq_lengths": [size]} if packed else {}))
        free = bool(arguments.padding_free or packed)
        found: dict[str, Any] = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=free)(rows)
        return found


def packed_lengths(lengths: list[int], most: int) -> list[int]:
    """Return the tokens of packed rows, taken to be full."""
    return [most] * max(1, -(-sum(lengths) // most))


def taken(need: Need) -> float:
    """Return the memory that is short first: a GPU's, where one is used."""
    return need.gpu or need.host


def largest_size(need: Callable[[int], Need], rows: int, limit: float) -> int:
    """Find the largest divisor of the rows that fits into the memory; 0 if not even one row does.

    A step's memory grows by the same for each row, but rows of one length are few: the result is checked.

    Args:
        need: the memory of a step with that many rows.
        rows: of an optimizer step, on one device.
        limit: bytes of memory.
    """
    one = taken(need(1))
    if one > limit:
        return 0
    if rows == 1:
        return 1
    each = max(1.0, taken(need(2)) - one)
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    likely = [size for size in sizes if one + each * (size - 1) <= limit * 1.2]
    return next(size for size in [*likely, 1] if taken(need(size)) <= limit)


def training_changes(training: Training, rows: int, limit: float) -> Iterator[tuple[str, Need]]:
    """Yield settings of train that need less, the cheapest first, until one of them fits.

    Args:
        training: the training.
        rows: of an optimizer step, on one device.
        limit: bytes of memory.
    """
    batch = "train.machine.device_batch_size"
    tries: list[tuple[str, Change]] = [("", {})]
    if not training.arguments.gradient_checkpointing:
        tries.append((", train.sft.gradient_checkpointing: true", {"checkpointing": True}))
    if training.train.method == "full":
        tries.append((f"{tries[-1][0]}, train.method: lora", tries[-1][1] | {"method": "lora"}))
    if training.train.method != "qlora" and training.device.name == "cuda":
        tries.append(
            (f"{tries[-1][0].split(', train.method')[0]}, train.method: qlora", tries[-1][1] | {"method": "qlora"})
        )
    for words, change in tries:
        size = largest_size(partial(training.need, **change), rows, limit)
        if size:
            yield f"{batch}: {size}{words}", training.need(size, **change)
            return
