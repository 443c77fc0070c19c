"""Adapters for tests: far from what they start as, so that nothing about them is lost in rounding."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import origin

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
    """Write an adapter for the model in `base` in which every trainable tensor is far from its initial value."""
    import peft
    import torch

    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(weight * (1 + 0.2 * torch.rand_like(weight)) + 0.05 * torch.rand_like(weight))
    model.save_pretrained(out)
    origin.note(base, out)
    return out
