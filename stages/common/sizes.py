"""Sizes: which layers a model's files hold quantised, what they weigh, and what they should."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationScheme
    from torch.nn import Linear
    from transformers import PreTrainedModel

SHARE = 0.01  # of the expected bytes that the found ones may be off: everything that is stored is in the sum
SHAPE = 16  # bytes of the two int64 that stand beside packed weights


class Expected(NamedTuple):
    """What a quantised model must hold: the names of its quantised layers, and the bytes of all its tensors."""

    layers: set[str]
    size_bytes: int


def expected(network: "PreTrainedModel", layers: dict[str, "Linear"], scheme: "QuantizationScheme") -> Expected:
    """Add up what the tensors of the quantised model take, from the shapes of the whole one.

    Args:
        network: the model before quantisation, in the dtype that it is stored in. Tied weights count once.
        layers: what will be quantised, by name.
        scheme: how.
    """
    taken = {f"{name}.weight" for name in layers}
    whole = {tensor.data_ptr(): tensor.nbytes for name, tensor in network.state_dict().items() if name not in taken}
    quantized = [layer_bytes(layer.weight, scheme) for layer in layers.values()]
    return Expected(set(layers), sum(whole.values()) + sum(quantized))


def layer_bytes(weight: "torch.Tensor", scheme: "QuantizationScheme") -> int:
    """Add up what one quantised weight takes: its numbers, packed into int32 below 8 bits, scales and zero points.

    Args:
        weight: shape (out, in), in the dtype in which scales are stored.
        scheme: a scale for each group, or one for each row.
    """
    rows, columns = weight.shape
    how = scheme.weights
    groups = columns // how.group_size if how.group_size else 1
    scales = rows * groups * weight.element_size()
    if how.num_bits == 8:
        return rows * columns + scales
    packed = rows * -(-columns * how.num_bits // 32) * 4
    zero_points = 0 if how.symmetric else -(-rows * how.num_bits // 32) * 4 * groups
    return packed + scales + zero_points + SHAPE


def found_bytes(folder: Path) -> int:
    """Add up what the tensors in the weight files take.

    A safetensors file is 8 bytes that give the header's length, the header, and the tensors
    (https://huggingface.co/docs/safetensors).
    """
    total = 0
    for shard in folder.glob("*.safetensors"):
        with shard.open("rb") as file:
            total += shard.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return total


def quantized_layers(folder: Path) -> set[str]:
    """Name the layers that are quantised in a saved model, from its files alone: a scale beside whole numbers or FP8.

    Where config.json names no quantisation there are none, as no reader would know of them.
    """
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config", {}).get("quant_method") != "compressed-tensors":
        return set()
    dtypes: dict[str, str] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            dtypes |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  not a dict
    scaled = {name.removesuffix(".weight_scale") for name in dtypes if name.endswith(".weight_scale")}
    packed = {name for name in scaled if dtypes.get(f"{name}.weight_packed") == "I32"}
    return packed | {name for name in scaled if dtypes.get(f"{name}.weight") in ("I8", "F8_E4M3")}


def check(folder: Path, wanted: Expected) -> int:
    """Compare a saved model with what it should hold.

    Returns:
        How many layers are quantised.

    Raises:
        click.ClickException: a layer that was left whole or should have been, or files of another size.
    """
    found = quantized_layers(folder)
    if odd := sorted(found ^ wanted.layers):
        fault = "is whole" if odd[0] in wanted.layers else "is none of them"
        raise click.ClickException(
            f"awq: {len(found & wanted.layers)} of {len(wanted.layers)} linear layers quantised; {odd[0]} {fault}; "
            "see awq.ignore"
        )
    size = found_bytes(folder)
    if abs(size - wanted.size_bytes) > SHARE * wanted.size_bytes:
        raise click.ClickException(
            f"{folder}: {size} bytes of weights, but {wanted.size_bytes} by the layers' shapes (at most {SHARE:.0%} "
            "off); something was stored twice, or left in 16 bits"
        )
    return len(found)
