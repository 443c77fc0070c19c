"""Trainer: TRL's SFTTrainer that resumes with the same bytes, stops at a bad loss, and computes one eval loss."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import click
import peft
import torch
import transformers
import trl
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from stages.common import batches, files
from stages.train import checkpoints
from stages.train.callbacks import BEST, Best, Progress
from stages.train.data import GroupedByLength, load_rows, load_train_rows, require_isolation
from stages.train.log_table import LogTable
from stages.train.params import TrainParams

# The losses since the last log line, of one process: transformers does not save them, and the next point of the curve
# is their mean.
WINDOW = "loss_window_{}.json"


def make_trainer(
    params: Path,
    config: TrainParams,
    model: Any,
    base: Path,
    rows: tuple[Path, Path],
    lora: peft.LoraConfig | None,
    arguments: trl.SFTConfig,
    scratch: Path,
) -> "Trainer":
    """Build the trainer with its rows.

    Args:
        params: the params file, for messages.
        config: its section train.
        model: what `load_model` returns.
        base: the base model's folder, for the tokenizer.
        rows: the token files of train and val.
        lora: the config of a new adapter.
        arguments: the trainer's config.
        scratch: the checkpoint folder.

    Raises:
        click.ClickException: settings that do not fit the model or this machine.
    """
    train, val = rows
    arguments.output_dir = str(scratch / checkpoints.WRITING)
    train_rows, lengths = load_train_rows(train, arguments, scratch, params)
    try:
        trainer = Trainer(
            scratch=scratch,
            lengths=lengths,
            max_loss=config.max_loss * math.log(model.config.vocab_size),
            model=model,
            args=arguments,
            train_dataset=train_rows,
            eval_dataset=load_rows(val),
            processing_class=transformers.AutoTokenizer.from_pretrained(base),
            peft_config=None if isinstance(model, peft.PeftModel) else lora,
        )
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    if trainer.padding_free:
        require_isolation(params, trainer.model, trainer.data_collator)
    for one in (transformers.ProgressCallback, PrinterCallback):  # they print dictionaries
        trainer.remove_callback(one)
    trainer.add_callback(LogTable())
    trainer.add_callback(Progress())
    if config.keep == "best" or config.early_stopping:
        trainer.add_callback(Best(scratch / BEST, trainer.save_model, config.early_stopping))
    return trainer


def labelled_places(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the places before a token with a label, counted through all rows of a batch, and these labels.

    Args:
        labels: shape (rows, tokens), -100 where a token is not in the loss.

    Returns:
        `places` and `shift_labels`, both of shape (tokens in the loss,).
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    places = (following != -100).nonzero().squeeze(1)
    return {"places": places, "shift_labels": following[places]}


class Diverged(Exception):
    """The loss of a batch is not a number, or greater than `max_loss`.

    Attributes:
        loss: the loss.
        batch: the batch, as the model gets it.
    """

    def __init__(self, loss: float, batch: dict[str, Any]) -> None:
        super().__init__(loss)
        self.loss, self.batch = loss, batch


class Trainer(trl.SFTTrainer):
    """An SFTTrainer that can be interrupted at any moment.

    Args:
        scratch: the checkpoint folder.
        lengths: tokens of each train row.
        max_loss: a batch with a greater loss ends the training.
    """

    def __init__(self, *, scratch: Path, lengths: list[int], max_loss: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scratch, self.max_loss = scratch, max_loss
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.sampler = GroupedByLength(lengths, size, self.args.data_seed)
        self.steps_per_epoch = -(-len(lengths) // size)
        self.last_log = (time.monotonic(), 0)
        self.resumed_from: Path | None = None
        self.add_callback(_ExactResume(self))

    def train(self, resume_from_checkpoint: str | None = None, **arguments: Any) -> Any:
        """Train, from the start or from a checkpoint."""
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, **arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        grouped = self.args.train_sampling_strategy == "group_by_length"
        return self.sampler if grouped else super()._get_train_sampler(train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        """Compute loss and gradients of a batch.

        Raises:
            Diverged: the loss is not a number, or greater than `max_loss`.
        """
        batch = dict(inputs)
        loss = super().training_step(model, inputs, *arguments, **named)
        value = loss.item()
        if not math.isfinite(value) or value > self.max_loss:
            raise Diverged(value, batch)
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the mean loss over the labels of the batch.

        TRL computes the output layer in pieces, twice, which spares a GPU's memory, and the entropy and accuracy of
        every token. On a CPU transformers' own loss is used, on the logits of the positions with a label alone.
        """
        inputs["use_cache"] = False  # with a cache the model reads packed rows as one
        if not self.args.use_cpu:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        plain = transformers.Trainer.compute_loss
        if self.label_smoother or self.compute_loss_func:  # they shift the labels themselves
            return plain(self, model, inputs, return_outputs, num_items_in_batch)
        named = inputs if "places" in inputs else inputs | labelled_places(inputs["labels"])
        with batches.output_at(self.accelerator.unwrap_model(model), named.pop("places")):
            return plain(self, model, named, return_outputs, num_items_in_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        writing = Path(self.args.output_dir)
        try:
            # Not TRL's own, which also writes a model card.
            transformers.Trainer._save_checkpoint(self, model, trial)
            written = writing / f"checkpoint-{self.state.global_step}"
            window = {"loss": self._tr_loss.item(), "since": self._globalstep_last_logged}
            files.write_json(written / WINDOW.format(self.args.process_index), window)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.store(written, self.scratch)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise click.ClickException(
                f"{self.scratch}: the checkpoint of step {self.state.global_step} cannot be written ({cause}); "
                f"free some space and run the same command again: {checkpoints.next_start(self.scratch)}"
            ) from None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with speed and memory added for the terminal; no hashed file gets them."""
        if "loss" in logs:
            then, before = self.last_log
            self.last_log = (time.monotonic(), int(self.state.num_input_tokens_seen))
            logs["tokens_per_second"] = round((self.last_log[1] - before) / (self.last_log[0] - then), 1)
            if self.args.device.type == "cuda":
                logs["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        super().log(logs, start_time)

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """Evaluate. The loss is the mean over all tokens in the loss, so it does not depend on the batches."""
        self.evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **named)
        total, count = self.accelerator.reduce(self.evaluated, reduction="sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = total / count
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Evaluate one batch, and add its loss and the number of its tokens in the loss to the total."""
        count = (inputs["labels"][:, 1:] != -100).sum().double()
        result = super().prediction_step(model, inputs, *arguments, **named)
        self.evaluated += torch.stack([result[0].double() * count, count])
        return result


class _ExactResume(TrainerCallback):
    """Restore what transformers does not: the sampler's epoch, and the losses since the last log line."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        file = self.trainer.resumed_from and self.trainer.resumed_from / WINDOW.format(args.process_index)
        if file and file.exists():
            window = json.loads(file.read_text(encoding="utf-8"))
            self.trainer._tr_loss += window["loss"]
            self.trainer._globalstep_last_logged = window["since"]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.sampler.set_epoch(math.floor((state.epoch or 0) + 1e-6))

    # transformers evaluates after the checkpoint of an epoch's last step, so a run that resumes from that checkpoint
    # would not evaluate. Here it is part of that step.
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.eval_strategy == IntervalStrategy.EPOCH and state.global_step % self.trainer.steps_per_epoch == 0:
            control.should_evaluate = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = False
