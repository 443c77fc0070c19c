"""Plan: number of steps, layout of a batch, device and estimated memory, printed before training starts."""

import math
import os
from pathlib import Path

import torch

from stages.common import tokens
from stages.common.device import Device
from stages.train.data import count_in_loss, row_lengths
from stages.train.memory import largest_batch, peak_bytes
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
        f"estimated memory: {describe_memory(trainer, device)}"
    )


def describe_memory(trainer: Trainer, device: Device) -> str:
    """Describe the memory that a step takes at its peak: on a CPU that of this process, else that of the GPU.

    What cannot be computed without data, such as a kernel of another package, is no reason to end a training.
    """
    try:
        places = largest_batch(trainer.sampler, trainer.args)
        batch = trainer.data_collator([trainer.train_dataset[place] for place in places])
        weights, step = peak_bytes(trainer.model, trainer.args, batch)
    except Exception as error:
        return f"unknown ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
    parts = [
        f"{short(weights)}B weights and optimizer",
        f"{short(step)}B gradients and activations of the largest batch",
    ]
    libraries = 0
    if device.name == "cpu":
        libraries = max(0, resident_bytes() - sum(map(_bytes, trainer.model.parameters())))
        parts.insert(0, f"{short(libraries)}B libraries")
        if "tcmalloc" not in os.environ.get("LD_PRELOAD", ""):
            parts.append(
                "up to half more as glibc keeps freed blocks: `apt install libtcmalloc-minimal4` avoids that"
            )
    return f"{short(libraries + weights + step)}B ({', '.join(parts)})"


def resident_bytes() -> int:
    """Return the memory of this process that is in use now; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def short(number: float) -> str:
    """Format a number with three digits and a prefix for its size: `1.21 M`, or `43`."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
