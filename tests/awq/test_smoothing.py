"""Smoothing: a mapping is left out where none of its readers is quantised, block by block and expert by expert."""

from typing import TYPE_CHECKING, Any

import pytest

from stages.awq.smoothing import awq_mappings, idle_in_smoothquant

if TYPE_CHECKING:
    from torch.nn import Module


def outline(kind: str, **settings: Any) -> "Module":
    import torch
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, vocab_size=8, intermediate_size=16, **settings)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def layers(network: "Module", *ignored: str) -> set[str]:
    from compressed_tensors.utils import match_named_modules

    return set(dict(match_named_modules(network, ["Linear"], ["lm_head", *ignored])))


def smoothed(network: "Module", mappings: list[Any]) -> dict[str, list[str]]:
    """What llm-compressor makes of the mappings: by reader, the layers that are smoothed for it."""
    from compressed_tensors.utils import match_modules_set

    names = {module: name for name, module in network.named_modules()}
    found: dict[str, list[str]] = {}
    for mapping in mappings:
        for (smooth,), *readers in match_modules_set(network, [mapping.smooth_layer, *mapping.balance_layers]):
            for reader in [one for group in readers for one in group]:
                found.setdefault(names[reader], []).append(names[smooth])
    return found


@pytest.mark.parametrize("kind", ["Qwen2", "Llama", "Phi3", "Gemma2"])
def test_without_idle_mappings_the_library_chooses(kind: str) -> None:
    settings = {"pad_token_id": None} if kind == "Phi3" else {}
    network = outline(kind, **settings)
    assert awq_mappings(network, layers(network)) is None
    assert idle_in_smoothquant(network, layers(network)) == []


@pytest.mark.parametrize(
    ("ignored", "lost"),
    [
        (["re:.*down_proj"], {f"model.layers.{layer}.mlp.down_proj" for layer in range(3)}),
        (["model.layers.1.mlp.down_proj"], {"model.layers.1.mlp.down_proj"}),
        (["model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"], {
            "model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"}),
        (["re:.*layers.1.self_attn.(q|k|v)_proj"], {f"model.layers.1.self_attn.{one}_proj" for one in "qkv"}),
        (["re:.*layers.1.self_attn.(q|k)_proj"], set()),
    ],
)  # fmt: skip
def test_idle_mappings_are_left_out_and_the_others_stay(ignored: list[str], lost: set[str]) -> None:
    from llmcompressor.modifiers.transform.awq.mappings import default_mappings

    network = outline("Qwen2")
    whole = smoothed(network, default_mappings)
    mappings = awq_mappings(network, layers(network, *ignored))
    left = smoothed(network, default_mappings if mappings is None else mappings)
    assert left == {reader: layer for reader, layer in whole.items() if reader not in lost}
    assert (mappings is None) == (not lost)


def test_experts_are_left_out_one_by_one() -> None:
    import torch

    class Expert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(self, name, torch.nn.Linear(8, 8))

    network = outline("Llama")
    for block in network.get_submodule("model.layers"):
        block.mlp = torch.nn.Module()
        block.mlp.experts = torch.nn.ModuleList(Expert() for _ in range(3))
    ignored = "model.layers.1.mlp.experts.2.down_proj"
    left = smoothed(network, awq_mappings(network, layers(network, ignored)) or [])
    experts = {f"model.layers.{layer}.mlp.experts.{one}.down_proj" for layer in range(3) for one in range(3)}
    assert {reader for reader in left if reader.endswith("down_proj")} == experts - {ignored}
    assert left["model.layers.1.mlp.experts.2.up_proj"] == ["model.layers.1.post_attention_layernorm"]


def test_smoothquant_is_told_every_layer_of_an_idle_mapping() -> None:
    network = outline("Qwen2")
    block = "model.layers.1."
    assert idle_in_smoothquant(network, layers(network, "re:.*layers.1.mlp.(gate|up)_proj")) == [
        f"{block}post_attention_layernorm",
        f"{block}mlp.gate_proj",
        f"{block}mlp.up_proj",
    ]
