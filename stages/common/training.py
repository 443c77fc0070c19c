"""Training: what the train stage does with transformers, PEFT and TRL, step by step."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peft
import torch
import transformers
import trl

from stages.common import callbacks, checkpoints, files, settings, tokens
from stages.common.device import Device
from stages.common.trainer import Trainer

if TYPE_CHECKING:
    from stages.train import TrainParams


def configs(params: Path, config: "TrainParams", place: Device) -> tuple[peft.LoraConfig | None, trl.SFTConfig]:
    """Build the libraries' configs from the params and from what follows from stage and machine.

    Raises:
        click.ClickException: a key or value that a library does not take.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device_batch, accumulation = split_batch(config.batch_size, config.machine.device_batch_size, world_size)
    if logs := os.environ.get("LOG_FOLDER"):
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", f"{logs}/tensorboard")
    fixed = {
        "output_dir": ".scratch/train",  # until the scratch folder is known
        "save_strategy": "steps",
        "save_steps": config.machine.save_steps,
        "seed": config.seed,
        "data_seed": config.seed,
        "full_determinism": True,
        "per_device_train_batch_size": device_batch,
        "per_device_eval_batch_size": device_batch,
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": config.machine.dataloader_num_workers,
        "bf16": place.name == "cuda",
        "use_cpu": place.name == "cpu",
        "include_num_input_tokens_seen": "non_padding",
        # The rows come with token ids and labels, and preprocess kept the length limit.
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": config.machine.report_to or "none",
    }
    lora = settings.build(params, "train.lora", config.lora, peft.LoraConfig)
    arguments = settings.build(params, "train.sft", config.sft, trl.SFTConfig, fixed)
    return (None if config.method == "full" else lora), arguments


def split_batch(batch_size: int, device_batch_size: int, world_size: int) -> tuple[int, int]:
    """Split the global batch over processes and accumulation steps.

    Returns:
        Rows per device and step, and accumulation steps; times `world_size` they give `batch_size` exactly.
    """
    per_process, rest = divmod(batch_size, world_size)
    if rest or not per_process:
        raise click.ClickException(f"train.batch_size {batch_size} does not divide by {world_size} processes")
    size = max(size for size in range(1, min(device_batch_size, per_process) + 1) if per_process % size == 0)
    return size, per_process // size


def load_model(params: Path, base: Path, config: "TrainParams", place: Device, start: Path | None) -> Any:
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
    if config.method == "full":
        return transformers.AutoModelForCausalLM.from_pretrained(start, **named)
    if not (start / "adapter_config.json").exists():
        raise click.ClickException(f"{start}: no adapter (adapter_config.json); train.resume_from names one")
    found = json.loads((start / "adapter_config.json").read_text(encoding="utf-8"))
    for key in ("r", "lora_alpha", "use_rslora", "use_dora"):
        if key in config.lora and found.get(key) != config.lora[key]:
            raise click.ClickException(
                f"{params}: train.lora.{key}: {config.lora[key]}, but the adapter in {start} has {found.get(key)}"
            )
    return peft.PeftModel.from_pretrained(model, start, is_trainable=True)


def make_trainer(
    params: Path,
    config: "TrainParams",
    model: Any,
    base: Path,
    rows: tuple[Path, Path],
    lora: peft.LoraConfig | None,
    arguments: trl.SFTConfig,
    waiting: Path,
) -> Trainer:
    """Build the trainer.

    Raises:
        click.ClickException: settings that do not fit the model, which is found only here.
    """
    train, val = rows
    arguments.output_dir = str(waiting / checkpoints.WRITING)
    try:
        trainer = Trainer(
            scratch=waiting,
            lengths=tokens.lengths(train),
            max_loss=config.max_loss * math.log(model.config.vocab_size),
            model=model,
            args=arguments,
            train_dataset=tokens.dataset(train),
            eval_dataset=tokens.dataset(val),
            processing_class=transformers.AutoTokenizer.from_pretrained(base),
            peft_config=None if isinstance(model, peft.PeftModel) else lora,
        )
    except ValueError as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    trainer.add_callback(callbacks.Pace())
    if config.keep == "best" or config.early_stopping:
        best = waiting / callbacks.BEST
        trainer.add_callback(callbacks.Best(best, trainer.save_model, config.early_stopping))
    return trainer


def save(model: Any, folder: Path, base: Path) -> None:
    """Save adapter or model with one spelling: no host paths, no library versions, no order from a hash."""
    if not isinstance(model, peft.PeftModel):
        stored = transformers.AutoConfig.from_pretrained(base).dtype
        model.to(stored).save_pretrained(folder)
        return
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.as_posix()
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):  # else one pattern, or nothing
            config[key] = sorted(config[key])
    files.write_json(file, config)
