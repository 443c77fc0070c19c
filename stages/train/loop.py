"""Training loop: the trainer's run to its end, with an error message for each way in which it can fail."""

import math
from pathlib import Path

import click
import torch

from stages.train import checkpoints
from stages.train.callbacks import BEST, Stop
from stages.train.data import row_ids
from stages.train.trainer import Diverged, Trainer

# What to change when memory runs out, cheapest first.
LESS_MEMORY = (
    "train.machine.device_batch_size (the rest is accumulated), train.sft.gradient_checkpointing: true, "
    "preprocess.max_length, train.lora.r, train.method: qlora"
)


def train_to_end(trainer: Trainer, params: Path, start: Path | None, train: Path) -> int:
    """Train to the end, or until a signal asks to stop.

    Args:
        trainer: what `make_trainer` returns.
        params: the params file, for messages.
        start: the folder that train.resume_from names.
        train: the token file, for messages.

    Returns:
        The number of the signal, 0 for none.

    Raises:
        click.ClickException: the loss is not a number or too great, memory is exhausted, or a package is missing.
    """
    trainer.accelerator.wait_for_everyone()  # the first process sets broken checkpoints aside
    checkpoint = checkpoints.resume_point(trainer.scratch, start)
    stop = Stop()
    trainer.add_callback(stop)
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Diverged as error:
        raise click.ClickException(
            f"{params}: train: the loss is {error.loss:g} at step {trainer.state.global_step + 1}, in a batch of the "
            f"rows {', '.join(row_ids(train, error.batch))}; check them, lower train.sft.learning_rate or raise "
            f"train.sft.warmup_steps (with the same params {checkpoints.next_start(trainer.scratch)})"
        ) from None
    except (ImportError, NotImplementedError) as error:  # an optimizer or attention that this machine does not have
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise click.ClickException(
            f"{params}: train: out of memory at step {trainer.state.global_step + 1}; lower or set, in this order: "
            f"{LESS_MEMORY}"
        ) from None
    return stop.received


def final_eval_loss(trainer: Trainer, keep: str) -> float:
    """Compute the loss on val of the weights that are kept, and load those if they are not the last ones.

    Args:
        trainer: a trainer that is at its end.
        keep: train.keep: `last`, or `best` for the weights with the lowest loss on val.

    Raises:
        click.ClickException: the loss is not a number.
    """
    step = trainer.state.global_step
    logged = {logs["step"]: logs["eval_loss"] for logs in trainer.state.log_history if "eval_loss" in logs}
    loss = logged[step] if step in logged else trainer.evaluate()["eval_loss"]
    if not math.isfinite(loss):
        raise click.ClickException(f"eval_loss is {loss} after {step} steps; lower train.sft.learning_rate")
    if keep == "best" and logged and min(logged.values()) < loss:
        best = min(logged, key=lambda one: logged[one])
        click.echo(f"keeping the weights of step {best}: eval_loss {logged[best]:.6f} instead of {loss:.6f}")
        trainer._load_from_checkpoint(str(trainer.scratch / BEST))
        loss = logged[best]
    return round(loss, 6)
