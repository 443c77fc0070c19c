"""Adapter names: which tensor of the base model a trained tensor belongs to.

PEFT names a trained tensor after the module that it belongs to. By these names train checks, before it trains, that
merge will find the tensors to add them to.
"""

import re

# The ends of PEFT's names for the parts of a delta, and the base model's tensor of the same module that they change.
PARTS = {
    ".lora_A.weight": ".weight",
    ".lora_B.weight": ".weight",
    ".lora_B.bias": ".bias",
    ".lora_embedding_A": ".weight",
    ".lora_embedding_B": ".weight",
    ".lora_magnitude_vector": ".weight",
}


def plain_name(name: str) -> str:
    """Turn PEFT's name of a trained tensor into the base model's name of it or of its module."""
    return re.sub(r"\.base_layer\.(weight|bias)$", r".\1", name.removeprefix("base_model.model."))


def base_name(plain: str) -> str:
    """Turn a plain name into the name of the base model's tensor that it changes or replaces."""
    for end, tensor in PARTS.items():
        if plain.endswith(end):
            return plain.removesuffix(end) + tensor
    return plain
