"""Smoothing: which of llm-compressor's mappings remain where awq.ignore keeps layers in 16 bits.

A mapping names a layer, such as a norm, and the readers of its output. AWQ and SmoothQuant divide the one and
multiply the others by scales that lower the readers' rounding error. A mapping is idle where no reader is quantised:
there is no error to lower, and AWQ would divide by zero. Idle mappings are left out, and their layers keep their
bytes.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcompressor.modifiers.transform.awq.mappings import AWQMapping
    from torch.nn import Module


def awq_mappings(network: "Module", quantized: set[str]) -> "list[AWQMapping] | None":
    """Choose the mappings of AWQ.

    Args:
        network: the model before quantisation.
        quantized: names of the layers to quantise.

    Returns:
        llm-compressor's mappings for this architecture without the idle ones; None, its own choice, if none is idle.
    """
    from llmcompressor.modifiers.transform.awq.dynamic_mappings import get_layer_mappings_from_model

    mappings = get_layer_mappings_from_model(network)
    kept = []
    for mapping in mappings:
        patterns = [mapping.smooth_layer, *mapping.balance_layers]
        groups = list(_groups(network, patterns))
        idle = [group for group in groups if not quantized & set(group[1:])]
        if not idle:
            kept.append(mapping)
        elif len(idle) < len(groups):  # the patterns name layers all over the model; take out those of idle groups
            smooth, *readers = (_without([name for group in idle for name in group], one) for one in patterns)
            kept.append(dataclasses.replace(mapping, smooth_layer=smooth, balance_layers=readers))
    return None if kept == mappings else kept


def idle_in_smoothquant(network: "Module", quantized: set[str]) -> list[str]:
    """List the layers of SmoothQuant's idle mappings. It leaves out a mapping if it is told to ignore all its layers.

    Args:
        network: the model before quantisation.
        quantized: names of the layers to quantise.
    """
    from llmcompressor.modifiers.transform.smoothquant.dynamic_mappings import get_layer_mappings_from_model

    return [
        name
        for mapping in get_layer_mappings_from_model(network)
        for group in _groups(network, [mapping.smooth_layers, *mapping.balance_layers])
        if not quantized & set(group[1:])
        for name in group
    ]


def _groups(network: "Module", patterns: list[str]) -> Iterator[list[str]]:
    """Yield the names of the layers that a mapping joins, such as those of one block, the smoothed layer first."""
    from compressed_tensors.utils import match_modules_set

    names = {module: name for name, module in network.named_modules()}
    for found in match_modules_set(network, patterns):
        yield [names[layer] for layers in found for layer in layers]


def _without(names: list[str], pattern: str) -> str:
    """Return the pattern of a mapping so that it matches none of these names."""
    listed = "|".join(map(re.escape, names))
    return f"re:(?!(?:{listed})$)(?:{pattern.removeprefix('re:')})"
