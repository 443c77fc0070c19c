"""Trainer: TRL's SFTTrainer, with whole checkpoints, a loss that is watched, and one eval loss for every layout."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import click
import torch
import transformers
import trl
from safetensors import SafetensorError

from stages.common import checkpoints, files, packing
from stages.common.sampler import GroupedByLength

# What the next logged loss is the mean of, which transformers does not save: a resumed curve would have other points.
WINDOW = "loss_window_{}.json"


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
        inputs["use_cache"] = False  # with a cache, packed rows are one to the model
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
        batch = dict(inputs)
        loss = super().training_step(model, inputs, *arguments, **named)
        value = loss.item()
        if not math.isfinite(value) or value > self.max_loss:
            raise Diverged(value, packing.rows(batch))
        return loss

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """Evaluate; the loss is the mean over all learnt tokens, however the rows fell into batches."""
        self.evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **named)
        total, count = self.accelerator.reduce(self.evaluated, reduction="sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = total / count
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Evaluate one batch, and add up its loss and its learnt tokens."""
        count = (inputs["labels"][:, 1:] != -100).sum().double()
        result = super().prediction_step(model, inputs, *arguments, **named)
        self.evaluated += torch.stack([result[0].double() * count, count])
        return result

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
