"""Plan: number of steps, layout of a batch, device and estimated memory, printed before training starts."""

import math
from pathlib import Path
from typing import Any

import torch

from stages.common import tokens
from stages.common.device import Device
from stages.train.data import count_in_loss, row_lengths
from stages.train.params import TrainParams
from stages.train.trainer import Trainer

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def describe_plan(trainer: Trainer, config: TrainParams, device: Device, train: Path) -> str:
    """Describe in five lines what is trained, on how many rows, in which steps, where, and in how much memory."""
    arguments, model, table = trainer.args, trainer.model, tokens.table(train)
    weights = list(model.parameters())
    total = sum(map(torch.numel, weights))
    trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
    lengths = trainer.sampler.lengths
    steps = math.ceil(arguments.num_train_epochs * trainer.steps_per_epoch)
    if arguments.max_steps > 0:
        steps = arguments.max_steps
    layout = "rows without padding" if trainer.padding_free else "rows"
    if arguments.packing:
        full = sum(lengths) / (len(lengths) * arguments.max_length)
        layout = f"packed rows of at most {arguments.max_length} tokens, {full:.1%} full"
    return (
        f"{config.method}: {type(model).__name__} with {short(total)} weights, {short(trainable)} of them trainable "
        f"({trainable / total:.2%})\n"
        f"{table.num_rows} rows, {short(sum(lengths))} tokens per epoch ({short(count_in_loss(table))} in the loss), "
        f"longest row {max(row_lengths(train))} tokens\n"
        f"{steps} steps of {config.batch_size} {layout}: {arguments.per_device_train_batch_size} per device x "
        f"{arguments.gradient_accumulation_steps} accumulated x {arguments.world_size} processes\n"
        f"{device.name}, {device.dtype}: {device.reason}\n"
        f"estimated memory: {short(weight_bytes(model))}B for weights, gradients and optimizer, "
        f"{short(activation_bytes(trainer, max(lengths)))}B for activations of the longest batch"
    )


def weight_bytes(model: Any) -> int:
    """Compute the bytes of all weights, and of the gradient and AdamW's two moments of each trainable one."""
    weights = list(model.parameters())
    trainable = [weight for weight in weights if weight.requires_grad]
    return sum(weight.numel() * weight.element_size() for weight in weights) + sum(
        weight.numel() * (weight.element_size() + 8) for weight in trainable
    )


def activation_bytes(trainer: Trainer, longest: int) -> float:
    """Estimate the bytes that a batch of rows of `longest` tokens keeps for the backward pass.

    A layer keeps 17 tensors of the hidden size (norms, projections, rotations; arXiv 2205.05198 counts 34 bytes in
    16 bit) and 4 of the size of its gated MLP; the loss 4 of the size of the vocabulary, in float32. Attention scores
    are left out.
    """
    config, arguments = trainer.model.config, trainer.args
    layer = 17 * config.hidden_size + 4 * config.intermediate_size
    if arguments.gradient_checkpointing:
        layer = config.hidden_size
    width = 2 if arguments.bf16 else 4
    batch_tokens = arguments.per_device_train_batch_size * longest
    return batch_tokens * (layer * config.num_hidden_layers * width + 4 * config.vocab_size * 4)


def short(number: float) -> str:
    """Format a number with three digits and a prefix for its size: `1.21 M`, or `43`."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
