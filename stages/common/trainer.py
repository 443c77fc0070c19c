"""Trainer: TRL's SFTTrainer, with whole checkpoints, rows of like length together, and a loss that is watched."""

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
import transformers
import trl
from safetensors import SafetensorError

from stages.common import checkpoints, files

# What the next logged loss is the mean of, which transformers does not save: a resumed curve would have other points.
WINDOW = "loss_window_{}.json"
MEGABATCH = 50  # batches whose rows are sorted together


class Trainer(trl.SFTTrainer):
    """An SFTTrainer that can be interrupted at any moment.

    Args:
        scratch: where checkpoints go.
        lengths: tokens of each train row.
        max_loss: a batch whose loss is greater, or is no number, ends the training.
    """

    def __init__(self, *, scratch: Path, lengths: list[int], max_loss: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scratch, self.max_loss = scratch, max_loss
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.grouped = GroupedByLength(lengths, size, self.args.data_seed)
        self.steps_per_epoch = -(-len(lengths) // size)
        self.watched = (time.monotonic(), 0)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        grouped = self.args.train_sampling_strategy == "group_by_length"
        return self.grouped if grouped else super()._get_train_sampler(train_dataset)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        writing = Path(self.args.output_dir)
        try:
            # Not TRL's own, which writes a model card, too.
            transformers.Trainer._save_checkpoint(self, model, trial)
            written = writing / f"checkpoint-{self.state.global_step}"
            window = {"loss": self._tr_loss.item(), "since": self._globalstep_last_logged}
            files.write_json(written / WINDOW.format(self.args.process_index), window)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.keep(written, self.scratch)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise click.ClickException(
                f"{self.scratch}: the checkpoint of step {self.state.global_step} cannot be written ({reason}); "
                f"make room and run the same command again: {checkpoints.last_good(self.scratch)}"
            ) from None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the mean loss of the batch's labels.

        TRL's own computes the output layer in pieces, twice, to spare a GPU's memory, and the entropy and accuracy of
        every token, which nobody asked for: a tenth of the time on a CPU.
        """
        plain = transformers.Trainer if self.args.use_cpu else trl.SFTTrainer
        return plain.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    def restore_window(self, checkpoint: Path) -> None:
        """Take up the mean of the losses since the last log; called when transformers has begun one anew."""
        file = checkpoint / WINDOW.format(self.args.process_index)
        if file.exists():
            window = json.loads(file.read_text(encoding="utf-8"))
            self._tr_loss += window["loss"]
            self._globalstep_last_logged = window["since"]

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        """Compute loss and gradients of a batch.

        Raises:
            Diverged: the loss is no number, or greater than `max_loss`.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        loss = super().training_step(model, inputs, *arguments, **named)
        value = loss.item()
        if not math.isfinite(value) or value > self.max_loss:
            lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
            raise Diverged(value, [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)])
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with speed and memory for those who watch; no file that is hashed gets them."""
        if "loss" in logs:
            then, before = self.watched
            self.watched = (time.monotonic(), int(self.state.num_input_tokens_seen))
            logs["tokens_per_second"] = round((self.watched[1] - before) / (self.watched[0] - then), 1)
            if torch.cuda.is_available():
                logs["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        super().log(logs, start_time)


class Diverged(Exception):
    """The loss of a batch is no number, or far too great.

    Attributes:
        loss: what it was.
        rows: the batch's token ids.
    """

    def __init__(self, loss: float, rows: list[list[int]]) -> None:
        super().__init__(loss)
        self.loss, self.rows = loss, rows


class GroupedByLength(torch.utils.data.Sampler):
    """Rows in random order, those of a batch of like length, the longest batch first, so that it fails first.

    Drawn anew from the seed for every epoch. The sampler of transformers draws from the global generator, whose state
    a resumed run cannot have, and leaves the batches in order of length.
    """

    def __init__(self, lengths: list[int], size: int, seed: int) -> None:
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
