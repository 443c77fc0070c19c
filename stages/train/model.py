"""Model to train: the base model as train.method needs it, or the model or adapter that train.resume_from names."""

from pathlib import Path
from typing import Any

import click
import peft
import torch
import transformers

from stages.common.device import Device
from stages.train.params import TrainParams


def load_model(params: Path, base: Path, config: TrainParams, device: Device, start: Path | None) -> Any:
    """Load the model that is trained. PEFT adds a new adapter later, in the trainer.

    Args:
        params: the params file, for messages.
        base: the base model's folder.
        config: the section train of the params.
        device: where the model is trained.
        start: the folder that train.resume_from names: an adapter, or with train.method full a model.

    Returns:
        A transformers model, or a `peft.PeftModel` where an adapter is in `start`.

    Raises:
        click.ClickException: this machine cannot run the method.
    """
    transformers.enable_full_determinism(config.seed)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    named: dict[str, Any] = {"dtype": torch.float32 if config.method == "full" else device.dtype}
    named["attn_implementation"] = config.attn_implementation
    if config.method == "qlora":
        if device.name != "cuda":
            raise click.ClickException(
                f"{params}: train.method: qlora needs an NVIDIA GPU ({device.reason}); use lora here"
            )
        named["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",  # with double quantisation, as in the QLoRA paper (arXiv 2305.14314)
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=device.dtype,
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
    if config.method == "full":
        return transformers.AutoModelForCausalLM.from_pretrained(start, **named)
    return peft.PeftModel.from_pretrained(model, start, is_trainable=True)
