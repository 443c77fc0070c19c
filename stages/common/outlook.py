"""Outlook: what a training is about to do, and about how much memory it will take."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.common import tokens
from stages.common.device import Device
from stages.common.trainer import Trainer

if TYPE_CHECKING:
    from stages.train import TrainParams

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def describe(trainer: Trainer, config: "TrainParams", place: Device, train: Path) -> str:
    """Say in one paragraph what is about to happen."""
    arguments, model, table = trainer.args, trainer.model, tokens.table(train)
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    total, learnt = sum(map(torch.numel, weights)), sum(map(torch.numel, trained))
    steps = math.ceil(arguments.num_train_epochs * trainer.steps_per_epoch)
    if arguments.max_steps > 0:
        steps = arguments.max_steps
    return (
        f"{config.method}: {type(model).__name__} of {short(total)} weights, {short(learnt)} of them trained "
        f"({learnt / total:.2%})\n"
        f"{table.num_rows} rows, {short(sum(trainer.grouped.lengths))} tokens an epoch "
        f"({short(tokens.supervised(table))} learnt), longest {max(tokens.lengths(train))}\n"
        f"{steps} steps of {config.batch_size} {layout(trainer)}: {arguments.per_device_train_batch_size} on a "
        f"device x {arguments.gradient_accumulation_steps} accumulated x {arguments.world_size} processes\n"
        f"{place.name}, {place.dtype}: {place.reason}\n"
        f"about {short(held(model))}B for weights, gradients and optimizer, "
        f"{short(activations(trainer, max(trainer.grouped.lengths)))}B for activations of the longest batch"
    )


def layout(trainer: Trainer) -> str:
    """Name what a step is made of."""
    if trainer.args.packing:
        packed = len(trainer.grouped.lengths)
        full = sum(trainer.grouped.lengths) / (packed * trainer.args.max_length)
        return f"packed rows of at most {trainer.args.max_length} tokens, {full:.1%} full"
    return "rows without padding" if trainer.padding_free else "rows"


def held(model: Any) -> int:
    """Count the bytes of the weights, and of gradient and AdamW's two moments for each trained one."""
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    return sum(weight.numel() * weight.element_size() for weight in weights) + sum(
        weight.numel() * (weight.element_size() + 8) for weight in trained
    )


def activations(trainer: Trainer, longest: int) -> float:
    """Estimate the bytes kept for the backward pass, without attention scores.

    A layer keeps 17 tensors as wide as the hidden states (norms, projections, rotations; arXiv 2205.05198 counts 34
    bytes in 16 bit) and 4 as wide as its gated MLP; the loss 4 as wide as the vocabulary, in float32.
    """
    config, arguments = trainer.model.config, trainer.args
    layer = 17 * config.hidden_size + 4 * config.intermediate_size
    if arguments.gradient_checkpointing:
        layer = config.hidden_size
    width = 2 if arguments.bf16 else 4
    tokens_at_once = arguments.per_device_train_batch_size * longest
    return tokens_at_once * (layer * config.num_hidden_layers * width + 4 * config.vocab_size * 4)


def short(number: float) -> str:
    """Spell a number with three digits."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} "
