"""Outputs of the train stage: the adapter or the model, with the hashes of its base, and the scores."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from stages.common import adapter_config, files, tokens, trained_on
from stages.train.data import count_in_loss
from stages.train.trainer import Trainer


def save_model(model: Any, folder: Path, base: Path) -> None:
    """Save the adapter or, after full fine-tuning, the model, and the hashes of the base model's files.

    The same weights give the same bytes: host paths and library versions are left out, and lists are sorted.

    Args:
        model: what was trained.
        folder: an empty folder.
        base: the base model's folder.
    """
    if isinstance(model, peft.PeftModel):
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        file = folder / adapter_config.CONFIG
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base.as_posix()
        for key in ("target_modules", "exclude_modules"):
            if isinstance(config[key], list):  # else a pattern, or None
                config[key] = sorted(config[key])
        files.write_json(file, config)
    else:
        stored = transformers.AutoConfig.from_pretrained(base).dtype
        model.to(stored).save_pretrained(folder)
    trained_on.note(base, folder)


def summary(trainer: Trainer, eval_loss: float, train: Path, val: Path) -> dict[str, Any]:
    """Return scores and counts of a finished training, as metrics/train.json has them."""
    weights = list(trainer.model.parameters())
    return {
        "eval_loss": eval_loss,
        "steps": trainer.state.global_step,
        "rows_train": tokens.table(train).num_rows,
        "rows_val": tokens.table(val).num_rows,
        "supervised_tokens": count_in_loss(tokens.table(train)),
        "trainable_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
        "total_parameters": sum(map(torch.numel, weights)),
    }
