"""Schemes: llm-compressor's recipe for a scheme, the layers that it quantises, and the bytes that they then take.

Schemes, modifiers and their order are those of llm-compressor's examples (docs/awq.md names them).
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from stages.awq.ignored import require_matches, split_layers
from stages.awq.params import AwqParams
from stages.awq.smoothing import awq_mappings, idle_in_smoothquant

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationScheme
    from torch.nn import Linear
    from transformers import PreTrainedModel


LARGEST_GROUP = 128  # that of llm-compressor's presets


class Expected(NamedTuple):
    """What the quantised model must hold: the names of its quantised layers, and the bytes of all its tensors."""

    layers: set[str]
    size_bytes: int


def check_layers(outline: "PreTrainedModel", config: AwqParams, params: Path) -> None:
    """Check on a model without weights what can be quantised, and print a note on what vLLM would refuse.

    Args:
        outline: the model, as `load_outline` builds it.
        config: the scheme and the layers to ignore.
        params: the params file, for messages.

    Raises:
        click.ClickException: see `require_matches` and `select_layers`.
    """
    require_matches(outline, config.ignore, params)
    if split := split_layers(outline, set(select_layers(outline, config))):
        names = ", ".join(split)
        click.echo(f"note: {names}: ignored, but not all that vLLM joins with them; it refuses such a model")


def plan_scheme(network: "PreTrainedModel", config: AwqParams) -> tuple[list[Any], Expected]:
    """Choose the modifiers, and compute what they must lead to.

    AWQ: https://arxiv.org/abs/2306.00978. SmoothQuant: https://arxiv.org/abs/2211.10438. GPTQ:
    https://arxiv.org/abs/2210.17323.

    Args:
        network: the model before quantisation, in the dtype that it is stored in.
        config: the scheme and its settings.

    Returns:
        llm-compressor's modifiers, the one that lowers the rounding error first; and what the result must hold.

    Raises:
        click.ClickException: see `select_layers`.
    """
    from compressed_tensors.quantization import preset_name_to_scheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    layers = select_layers(network, config)
    scheme = preset_name_to_scheme(config.scheme, targets=["Linear"])
    if config.group_size:
        scheme.weights.group_size = choose_group_size(input_widths(layers), config.group_size)  # presets: 128 only
    quantization = {"config_groups": {"group_0": scheme}, "ignore": config.ignore}
    if config.scheme == "W8A8":
        idle = idle_in_smoothquant(network, set(layers))
        smooth = SmoothQuantModifier(smoothing_strength=config.smoothing_strength, ignore=idle)
        modifiers = [smooth, GPTQModifier(**quantization)]
    else:
        mappings = awq_mappings(network, set(layers))
        modifiers = [
            AWQModifier(duo_scaling=config.duo_scaling, mappings=mappings),
            QuantizationModifier(**quantization),
        ]
    replaced = {f"{name}.weight" for name in layers}
    tensors = network.state_dict().items()
    kept = {tensor.data_ptr(): tensor.nbytes for name, tensor in tensors if name not in replaced}  # tied ones once
    quantized = [layer_bytes(layer.weight, scheme) for layer in layers.values()]
    return modifiers, Expected(set(layers), sum(kept.values()) + sum(quantized))


def select_layers(network: "PreTrainedModel", config: AwqParams) -> dict[str, "Linear"]:
    """Select the linear layers that must be quantised, by name.

    Raises:
        click.ClickException: no layer is left, or awq.group_size does not fit the input width of a layer.
    """
    from compressed_tensors.utils import match_named_modules

    layers = dict(match_named_modules(network, ["Linear"], config.ignore))
    if not layers:
        raise click.ClickException("awq.ignore: no linear layer is left to quantise; remove entries")
    if config.group_size:
        choose_group_size(input_widths(layers), config.group_size)
    return layers


def input_widths(layers: "dict[str, Linear]") -> dict[str, int]:
    """Return the input width of each layer."""
    return {name: layer.in_features for name, layer in layers.items()}


def choose_group_size(widths: dict[str, int], wanted: int | str) -> int:
    """Return the number of weights per scale.

    Args:
        widths: the input width of each layer, by name.
        wanted: awq.group_size: `auto` for the largest of 128, 64 and 32 that divides all widths.

    Raises:
        click.ClickException: the width of a layer is not a multiple of it, or of 32 for `auto`.
    """
    common = math.gcd(*widths.values())
    sizes = [2**power for power in range(5, common.bit_length()) if common % 2**power == 0]
    if wanted == "auto" and (fitting := [size for size in sizes if size <= LARGEST_GROUP]):
        return fitting[-1]
    size = 32 if wanted == "auto" else int(wanted)
    for name, width in widths.items():
        if width % size:
            others = ", ".join(map(str, sizes or [common]))
            raise click.ClickException(
                f"awq.group_size: {size} does not divide the input width of {name} ({width}); use auto or a divisor "
                f"of all widths, such as {others}"
            )
    return size


def layer_bytes(weight: "torch.Tensor", scheme: "QuantizationScheme") -> int:
    """Compute the bytes of one quantised layer: weights, packed into int32 below 8 bits, scales and zero points.

    Args:
        weight: shape (out, in), in the dtype in which scales are stored.
        scheme: one scale per group, or per row.
    """
    rows, columns = weight.shape
    how = scheme.weights
    groups = columns // how.group_size if how.group_size else 1
    scales = rows * groups * weight.element_size()
    if how.num_bits == 8:
        return rows * columns + scales
    packed = rows * -(-columns * how.num_bits // 32) * 4
    zero_points = 0 if how.symmetric else -(-rows * how.num_bits // 32) * 4 * groups
    return packed + scales + zero_points + 16  # the original shape, as two int64
