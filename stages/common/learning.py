"""Learning: the run of a trainer from its first words to its scores, whatever comes between."""

import math
from pathlib import Path
from typing import Any

import click
import torch

from stages.common import callbacks, checkpoints, tokens
from stages.common.trainer import Diverged, Trainer

LOWER = (
    "train.machine.device_batch_size (the rest is accumulated), train.sft.gradient_checkpointing: true, "
    "preprocess.max_length, train.lora.r, train.method: qlora"
)


def learn(trainer: Trainer, params: Path, start: Path | None, train: Path) -> int:
    """Train to the end, or to where a signal, a loss that explodes or memory that runs out ends it.

    Returns:
        The signal that stopped it, 0 for none.

    Raises:
        click.ClickException: the loss is no number or far too great, or memory ran out; says what to change.
    """
    resume = checkpoints.newest(trainer.scratch)
    if resume:
        click.echo(f"going on after step {checkpoints.step(resume)} of {trainer.scratch}")
    elif start and (start / "trainer_state.json").exists():
        resume = start
    stop, again = callbacks.Stop(), callbacks.Resume(trainer)
    again.checkpoint = resume
    trainer.add_callback(stop)
    trainer.add_callback(again)
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except Diverged as error:
        rows = ", ".join(tokens.row_ids(train, error.rows))
        raise click.ClickException(
            f"{params}: train: the loss is {error.loss:g} at step {trainer.state.global_step + 1}, in a batch of the "
            f"rows {rows}; look at them, lower train.sft.learning_rate or raise its warmup_steps "
            f"({checkpoints.last_good(trainer.scratch)} with params as they are)"
        ) from None
    except (ImportError, NotImplementedError) as error:  # an optimizer or attention that this machine does not have
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        step = trainer.state.global_step + 1
        raise click.ClickException(
            f"{params}: train: out of memory at step {step}; lower or set, in this order: {LOWER}"
        ) from None
    return stop.received


def final_eval_loss(trainer: Trainer, keep: str) -> float:
    """Give the loss on val of the weights that are kept, evaluating only where the schedule did not end with that.

    Raises:
        click.ClickException: it is no number.
    """
    step = trainer.state.global_step
    logged = {logs["step"]: logs["eval_loss"] for logs in trainer.state.log_history if "eval_loss" in logs}
    loss = logged[step] if step in logged else trainer.evaluate()["eval_loss"]
    if not math.isfinite(loss):
        raise click.ClickException(f"eval_loss is {loss} after {step} steps; lower train.sft.learning_rate")
    if keep == "best" and logged and min(logged.values()) < loss:
        best = min(logged, key=lambda one: logged[one])
        click.echo(f"keeping the weights of step {best}: eval_loss {logged[best]:.6f}, not {loss:.6f}")
        trainer._load_from_checkpoint(str(trainer.scratch / callbacks.BEST))
        loss = logged[best]
    return round(loss, 6)


def summary(trainer: Trainer, eval_loss: float, train: Path, val: Path) -> dict[str, Any]:
    """Give the scores and counts of a finished training."""
    weights = list(trainer.model.parameters())
    return {
        "eval_loss": eval_loss,
        "steps": trainer.state.global_step,
        "rows_train": tokens.table(train).num_rows,
        "rows_val": tokens.table(val).num_rows,
        "supervised_tokens": tokens.supervised(tokens.table(train)),
        "trainable_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "total_parameters": sum(map(torch.numel, weights)),
    }
