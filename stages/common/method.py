"""Method: the model to train: with an adapter to come, on a base in four bits, or every weight of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peft
import torch
import transformers

from stages.common.device import Device

if TYPE_CHECKING:
    from stages.train import TrainParams


def load(params: Path, base: Path, config: "TrainParams", place: Device, start: Path | None) -> Any:
    """Load the base model as the method wants it, with the adapter to start from where one is named.

    Raises:
        click.ClickException: a method that this machine cannot run, or nothing to start from.
    """
    transformers.enable_full_determinism(config.seed)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    named: dict[str, Any] = {"dtype": torch.float32 if config.method == "full" else place.dtype}
    named["attn_implementation"] = config.attn_implementation
    if config.method == "qlora":
        if place.name != "cuda":
            raise click.ClickException(
                f"{params}: train.method: qlora needs an NVIDIA GPU ({place.reason}); use lora here"
            )
        named["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",  # with double quantisation: QLoRA's own choice (arXiv 2305.14314)
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=place.dtype,
        )
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, **named)
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    if config.method == "qlora":
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=bool(config.sft.get("gradient_checkpointing"))
        )
    if start is None:
        return model
    if not any(start.glob("*.safetensors")):
        raise click.ClickException(f"{start}: no safetensors weights, and pickles are never loaded; convert them")
    if config.method == "full":
        return transformers.AutoModelForCausalLM.from_pretrained(start, **named)
    require_shape(params, config, start)
    return peft.PeftModel.from_pretrained(model, start, is_trainable=True)


def require_shape(params: Path, config: "TrainParams", start: Path) -> None:
    """Fail when `start` holds no adapter, or one of another kind than the params ask for."""
    if not (start / "adapter_config.json").exists():
        raise click.ClickException(f"{start}: no adapter (adapter_config.json); train.resume_from names one")
    found = json.loads((start / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("r", "lora_alpha", "use_rslora", "use_dora"):
        if key in config.lora and found.get(key) != config.lora[key]:
            raise click.ClickException(
                f"{params}: train.lora.{key}: {config.lora[key]}, but the adapter in {start} has {found.get(key)}"
            )
