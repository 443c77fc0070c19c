"""Checks before a training: of train.lora on the layers of the base model, and of the model that the trainer has."""

from pathlib import Path
from typing import Any

import click
import peft
import torch
import transformers

from stages.common import adapter_config, files, model_folder
from stages.train.lora_names import require_names
from stages.train.mergeable import require_tied, unmergeable
from stages.train.params import TrainParams
from stages.train.same_settings import require_same_settings


def check_settings(
    params: Path, base: Path, config: TrainParams, lora: peft.LoraConfig | None, start: Path | None
) -> None:
    """Fail when train.lora has no effect, cannot be merged, or does not fit the adapter to start from.

    Args:
        params: the params file, for messages.
        base: the base model's folder.
        config: the section train of the params.
        lora: the config of the adapter; None for full fine-tuning.
        start: the folder that train.resume_from names.

    Raises:
        click.ClickException: no such folder, or one that names code, a name that matches nothing, a setting that
            merge refuses, or one that differs.
    """
    if start:
        files.require(start, "dvc repro")
    if start and not any(start.glob("*.safetensors")):
        raise click.ClickException(f"{start}: no safetensors weights, and pickles are never loaded; convert them")
    for path in sorted(start.rglob("*.json")) if start else []:
        other = "name another folder in train.resume_from"
        model_folder.refuse_code(path, str(path), f"fetch the adapter again, or {other}", other)
    if lora is None:
        return
    model = without_weights(params, base)
    require_names(params, base, lora, model)
    require_tied(params, base, lora, model)
    if start:
        require_same_settings(params, config.lora, lora, start, model)


def check_model(params: Path, base: Path, model: Any) -> None:
    """Fail before the first step when merge would refuse what the training saves.

    Args:
        params: the params file, for messages.
        base: the base model's folder.
        model: the model of the trainer.

    Raises:
        click.ClickException: a key of PEFT's config, or the first tensor, that cannot be merged.
    """
    if isinstance(model, peft.PeftModel):
        config = model.active_peft_config.to_dict()  # with what PEFT makes of all-linear for packed experts
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        adapter_config.require_known(f"{params}: train.lora", plain)
    for problem in unmergeable(base, model):
        raise click.ClickException(f"{params}: {problem}")


def without_weights(params: Path, base: Path) -> Any:
    """Build the layers of the base model, without memory for their weights."""
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(base))
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
