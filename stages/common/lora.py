"""LoRA: what an adapter's tensors are for, by their names and its adapter_config.json, in PEFT's spelling."""

import math
import re
from typing import TYPE_CHECKING, Any

from stages.common.sums import Sum

if TYPE_CHECKING:
    from stages.common.weights import Tensor

PREFIX = "base_model.model."


def plain(name: str) -> str:
    """Give an adapter's tensor the name that it has, or its module has, in the base."""
    return re.sub(r"\.base_layer\.(weight|bias)$", r".\1", name.removeprefix(PREFIX))


def choose(name: str, parts: "dict[str, Tensor]", config: dict[str, Any]) -> Sum:
    """Find what is meant for one tensor of the base.

    Args:
        name: the base tensor's, such as `model.layers.0.mlp.up_proj.weight`.
        parts: trained tensors by plain name.
        config: what adapter_config.json holds, or nothing where a whole model was trained.
    """
    module, _, kind = name.rpartition(".")
    found = Sum(parts.get(name), transposed=bool(config.get("fan_in_fan_out")))
    down, up = parts.get(f"{module}.lora_A.weight"), parts.get(f"{module}.lora_B.weight")
    if f"{module}.lora_embedding_A" in parts:
        down, up = parts.get(f"{module}.lora_embedding_A"), parts.get(f"{module}.lora_embedding_B")
        found = found._replace(transposed=True)
    if not down or not up:
        return found
    found = found._replace(scale=scale(module, down.rows, config))
    if kind == "bias":
        return found._replace(bias=parts.get(f"{module}.lora_B.bias"))
    if kind == "weight":
        return found._replace(up=up, down=down, magnitude=parts.get(f"{module}.lora_magnitude_vector"))
    return found


def scale(module: str, rank: int, config: dict[str, Any]) -> float:
    """Give the factor before a product, as PEFT does: alpha / r, or alpha / sqrt(r) for rsLoRA."""
    patterns = config.get("alpha_pattern") or {}
    alphas = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)]
    alpha = alphas[0] if alphas else config["lora_alpha"]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank) if rank else 0.0
