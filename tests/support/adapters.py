"""Adapters for tests: every trained tensor is far from its initial value, so that rounding hides nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import adapter_config, files, trained_on
from stages.merge.plan import plan_merge
from stages.merge.rewrite import rewrite_weights

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from transformers import PreTrainedModel

ALL: dict[str, Any] = {"target_modules": "all-linear", "r": 4, "lora_alpha": 8}


def load(folder: Path, kind: "dtype | None" = None) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=kind or torch.float32).eval()


def tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def adapt(base: Path, out: Path, **config: Any) -> Path:
    """Write an adapter for the model in `base`."""
    import peft
    import torch

    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(weight * (1 + 0.2 * torch.rand_like(weight)) + 0.05 * torch.rand_like(weight))
    model.save_pretrained(out)
    trained_on.note(base, out)
    return out


def merge(base: Path, adapter: Path, out: Path, seed: int | None = None) -> "dict[str, Tensor]":
    """Merge the weights alone, and return the merged tensors; names, shapes and dtypes must be the base model's."""
    out.mkdir()
    before = tensors(base)
    lora = files.read_json(adapter / adapter_config.CONFIG)
    count = rewrite_weights(base, adapter, out, plan_merge(base, adapter, lora), seed=seed)
    found = tensors(out)
    assert count == sum(not tensor.equal(before[name]) for name, tensor in found.items()) > 0
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in before.items()
    }
    return found
