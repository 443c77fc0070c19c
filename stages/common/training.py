"""Training: the trainer that the train stage runs, from the params to the saved adapter."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peft
import transformers
import trl

from stages.common import adapter, callbacks, checkpoints, files, packing, reports, settings, tokens
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
    if place.name == "cpu" and config.sft.get("activation_offloading"):
        raise click.ClickException(f"{params}: train.sft.activation_offloading: needs a GPU; delete the line")
    reports.prepare(params, list(config.machine.report_to))
    packed = config.sft.get("packing", False)  # then max_length is the tokens of a packed row
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
        "include_num_input_tokens_seen": "all" if packed or config.sft.get("padding_free") else "non_padding",
        # The rows come with token ids and labels, and preprocess kept the length limit.
        **({} if packed else {"max_length": None}),
        "packing_strategy": "bfd",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": config.machine.report_to or "none",
    }
    lora = settings.build(params, "train.lora", config.lora, peft.LoraConfig)
    if config.method != "full":
        adapter.require_known(f"{params}: train.lora", lora.to_dict())
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
    learnt, lengths = tokens.dataset(train), tokens.lengths(train)
    if arguments.packing:
        learnt = packing.pack(learnt, lengths, arguments, waiting / f"packed-{arguments.process_index}.arrow", params)
        lengths = [sum(row) for row in learnt["seq_lengths"]]
    try:
        trainer = Trainer(
            scratch=waiting,
            lengths=lengths,
            max_loss=config.max_loss * math.log(model.config.vocab_size),
            model=model,
            args=arguments,
            train_dataset=learnt,
            eval_dataset=tokens.dataset(val),
            processing_class=transformers.AutoTokenizer.from_pretrained(base),
            peft_config=None if isinstance(model, peft.PeftModel) else lora,
        )
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None
    if trainer.padding_free:
        packing.require_isolation(params, trainer.model, trainer.data_collator)
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
    file = folder / adapter.CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.as_posix()
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):  # else one pattern, or nothing
            config[key] = sorted(config[key])
    files.write_json(file, config)
