"""Plan: which trained tensors change which tensor of the base model, and with what scale."""

import math
from pathlib import Path
from typing import Any

import pytest
from adapters import adapt

from stages.common import files
from stages.common.adapter_names import plain_name
from stages.merge.plan import find_scale, plan_merge

LAYER = "model.layers.0.self_attn.q_proj"


def test_a_plan_names_every_tensor_of_the_base_once_and_a_delta_where_one_is_trained(
    base: Path, tmp_path: Path
) -> None:
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"], r=4, modules_to_save=["norm"])
    plan = plan_merge(base, adapter, files.read_json(adapter / "adapter_config.json"))
    assert list(plan) == [base / "model.safetensors"]
    deltas = {tensor.name: delta for tensor, delta in plan[base / "model.safetensors"]}
    for name, delta in deltas.items():  # PEFT takes "norm" for the end of a name
        assert bool(delta) == name.endswith(("q_proj.weight", "norm.weight")), name
    changed, norm = deltas[f"{LAYER}.weight"], deltas["model.norm.weight"]
    assert changed
    assert changed.lora_a
    assert changed.lora_b
    assert (changed.lora_a.shape, changed.lora_b.shape, changed.replacement) == ((4, 128), (128, 4), None)
    assert norm
    assert norm.replacement
    assert norm.replacement.name.endswith("model.norm.weight")


def test_after_full_fine_tuning_every_tensor_is_replaced(base: Path) -> None:
    plan = plan_merge(base, base, None)
    assert all(delta and delta.replacement == tensor for tensors in plan.values() for tensor, delta in tensors)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 3}}, 3 / 4),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 5, "q_proj": 3}}, 5 / 4),
        ({"alpha_pattern": {"proj": 3, "layers.1.self_attn.q_proj": 3}}, 8 / 4),
    ],
)
def test_the_scale_is_alpha_by_rank_as_in_peft(changes: dict[str, Any], scale: float) -> None:
    assert find_scale(LAYER, 4, {"lora_alpha": 8} | changes) == scale


def test_pefts_names_become_the_base_models() -> None:
    assert plain_name(f"base_model.model.{LAYER}.base_layer.bias") == f"{LAYER}.bias"
    assert plain_name(f"base_model.model.{LAYER}.lora_A.weight") == f"{LAYER}.lora_A.weight"
