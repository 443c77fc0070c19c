"""Merging: which tensors of the base take which trained ones, and nothing that was trained is left over."""

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import adapter, dtypes, files, lora, origin, shards, weights

if TYPE_CHECKING:
    from stages.common.sums import Sum
    from stages.common.weights import Tensor


def merge(base: Path, trained: Path, out: Path) -> int:
    """Write the base's weight files with what was trained: same files, names, shapes, dtypes and order.

    Args:
        base: a model's folder.
        trained: a folder with an adapter, or with a whole model.
        out: a folder that gets the weight files.

    Returns:
        How many tensors differ from the base's.

    Raises:
        click.ClickException: `trained` was trained on another base, or holds what cannot be merged into it.
    """
    others = (file for file in base.iterdir() if file.suffix != ".safetensors")
    origin.require(base, trained, origin.checksums(others))
    sums = plan(base, trained)
    differing = 0
    for file in sorted(base.glob("*.safetensors")):
        tensors = (tensor for tensor in weights.tensors(file) if tensor.name in sums)
        changes = {tensor.name: partial(sums[tensor.name].change, tensor) for tensor in tensors}
        written = shards.rewrite(file, out / file.name, changes)
        origin.require(base, trained, {file.name: written.checksum})
        differing += written.differing
    return differing


def plan(base: Path, trained: Path) -> "dict[str, Sum]":
    """Say for each tensor of the base that takes a trained one what it becomes."""
    whole = (trained / "config.json").exists()  # train.method: full
    config = {} if whole else files.read_json(trained / adapter.CONFIG)
    parts = {lora.plain(part.name): part for part in listed(trained)}
    unused, sums = set(parts), {}
    for tensor in listed(base):
        found = lora.choose(tensor.name, parts, config)
        if whole and not found.whole:
            raise click.ClickException(f"{trained}: {tensor.name}: missing; was it trained on another base?")
        if found.parts():
            require_fit(tensor, found)
            sums[tensor.name] = found
            unused -= {lora.plain(part.name) for part in found.parts()}
    if unused:
        raise click.ClickException(f"{trained}: {min(unused)}: fits no tensor of {base} ({len(unused)} such tensors)")
    if not whole:
        adapter.require_known(str(trained / adapter.CONFIG), config)
        require_untied(base, trained, sums)
    return sums


def require_fit(tensor: "Tensor", found: "Sum") -> None:
    """Fail when what was trained for a tensor has another shape, or the tensor numbers that are not worked with."""
    for part in (tensor, *found.parts()):
        if part.dtype not in dtypes.STORED:
            raise click.ClickException(f"{part.file}: {part.name}: {part.dtype} numbers cannot be merged")
    wrong = [str(part.shape) for part in (found.whole, found.bias) if part and part.shape != tensor.shape]
    if found.up and found.down:
        shape = (*found.up.shape[:1], *found.down.shape[1:])
        if found.up.shape[1:] != found.down.shape[:1]:
            wrong.append(f"{found.up.shape} by {found.down.shape}")
        elif tensor.shape != (shape[::-1] if found.transposed else shape):
            wrong.append(str(shape))
        if found.magnitude and math.prod(found.magnitude.shape) != shape[0]:
            wrong.append(str(found.magnitude.shape))
    if wrong:
        raise click.ClickException(
            f"{tensor.name}: shape {tensor.shape}, adapter {wrong[0]}; was it trained on another base?"
        )


def require_untied(base: Path, trained: Path, sums: "dict[str, Sum]") -> None:
    """Fail when an adapter changes what reads and writes tokens alike: at run time it changes one use alone."""
    config = files.read_json(base / "config.json")
    vocabulary = config.get("text_config", config).get("vocab_size")
    outside = (tensor for tensor in listed(base) if not re.search(r"\.\d+\.", tensor.name))  # of numbered layers
    tables = [tensor.name for tensor in outside if len(tensor.shape) == 2 and tensor.shape[0] == vocabulary]
    for name in tables if config.get("tie_word_embeddings") or len(tables) == 1 else ():
        if name in sums:
            raise click.ClickException(
                f"{trained}: {name}: {base} uses it for input and output (tie_word_embeddings), and the adapter "
                "changes one of them; train without it"
            )


def listed(folder: Path) -> "list[Tensor]":
    """List the tensors of all files in a folder."""
    return [tensor for file in sorted(folder.glob("*.safetensors")) for tensor in weights.tensors(file)]
