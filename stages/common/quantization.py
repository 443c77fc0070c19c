"""Quantisation: what each scheme is made of, what it asks of the params, and which layers it takes.

Schemes, modifiers and their order are those of llm-compressor's own examples (docs/awq.md names them).
"""

import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme
    from torch.nn import Linear
    from transformers import PreTrainedModel

    from stages.awq import AwqParams

# The keys that some schemes use and others have no use for.
KEYS = {
    "W4A16_ASYM": {"group_size", "duo_scaling", "use_loss_mask"},
    "W4A16": {"group_size", "duo_scaling", "use_loss_mask"},
    "FP8_DYNAMIC": {"duo_scaling", "use_loss_mask"},
    "W8A8": {"smoothing_strength"},
}


def misfit(scheme: str, key: str, value: Any) -> str:
    """Say what is wrong with a key's value under a scheme, if anything: no setting may be without effect."""
    if key in KEYS[scheme]:
        return f"scheme {scheme} needs a value" if value is None else ""
    if value is None or (key == "use_loss_mask" and not value):
        return ""
    return f"scheme {scheme} has no use for it; set it to {'false' if key == 'use_loss_mask' else 'null'}"


def scheme(config: "AwqParams") -> "QuantizationScheme":
    """Give compressed-tensors' description of the scheme: bits, groups, zero points, activations."""
    from compressed_tensors.quantization import preset_name_to_scheme

    found = preset_name_to_scheme(config.scheme, targets=["Linear"])
    if config.group_size:
        found.weights.group_size = config.group_size  # presets know 128 only
    return found


def recipe(config: "AwqParams") -> list[Any]:
    """Give llm-compressor's modifiers: what makes the rounding harmless, then the rounding.

    AWQ: https://arxiv.org/abs/2306.00978. SmoothQuant: https://arxiv.org/abs/2211.10438. GPTQ:
    https://arxiv.org/abs/2210.17323.
    """
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    what = {"config_groups": {"group_0": scheme(config)}, "ignore": config.ignore}
    if config.scheme == "W8A8":
        return [SmoothQuantModifier(smoothing_strength=config.smoothing_strength), GPTQModifier(**what)]
    return [AWQModifier(duo_scaling=config.duo_scaling), QuantizationModifier(**what)]


def layers(network: "PreTrainedModel", config: "AwqParams") -> dict[str, "Linear"]:
    """Give the linear layers that must come out quantised, by name.

    Raises:
        click.ClickException: a layer whose input width does not divide by the group size, an entry of awq.ignore
            that matches nothing, or no layer left.
    """
    from compressed_tensors.utils import match_named_modules

    for entry in config.ignore:
        if not any(match_named_modules(network, [entry])):
            raise click.ClickException(f"awq.ignore: {entry}: matches no layer of the model; `re:` begins a pattern")
    found = dict(match_named_modules(network, ["Linear"], config.ignore))
    if not found:
        raise click.ClickException("awq.ignore leaves no linear layer to quantise; make it shorter")
    for name, layer in found.items():
        if config.group_size and layer.in_features % config.group_size:
            common = math.gcd(*(layer.in_features for layer in found.values()))
            sizes = [str(2**power) for power in range(5, common.bit_length()) if common % 2**power == 0]
            fit = f"{', '.join(sizes)} divide every layer" if sizes else f"{common} divides every layer"
            raise click.ClickException(
                f"awq.group_size {config.group_size} does not divide {name} ({layer.in_features} wide); {fit}"
            )
    return found


def let_pinning_pass() -> None:
    """Let llm-compressor 0.14 run without an accelerator, where pinning memory for one can only fail."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None
