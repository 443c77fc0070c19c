"""Configs of PEFT and TRL for the train stage: from params.yaml, and from what the stage and the machine set."""

import copy
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import click
import peft
import trl

from stages.common import adapter_config
from stages.common.device import Device
from stages.common.params import build_config
from stages.train.params import TrainParams

# What to install for each value of train.machine.report_to.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


def make_configs(params: Path, config: TrainParams, device: Device) -> tuple[peft.LoraConfig | None, trl.SFTConfig]:
    """Build the configs of the libraries.

    Args:
        params: the params file, for messages.
        config: its section train.
        device: where the model is trained.

    Returns:
        The config of the adapter, None for full fine-tuning, and the config of the trainer.

    Raises:
        click.ClickException: a key or value that a library does not accept.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device_batch, accumulation = split_batch(config.batch_size, config.machine.device_batch_size, world_size)
    if device.name == "cpu" and config.sft.get("activation_offloading"):
        raise click.ClickException(f"{params}: train.sft.activation_offloading: needs a GPU; delete the line")
    _prepare_reports(params, config.machine.report_to)
    packed = config.sft.get("packing", False)  # then max_length is the length of a packed row
    fixed = {
        "output_dir": ".scratch/train",  # make_trainer knows the checkpoint folder
        "save_strategy": "steps",
        "save_steps": config.machine.save_steps,
        "seed": config.seed,
        "data_seed": config.seed,
        "full_determinism": True,
        "per_device_train_batch_size": device_batch,
        "per_device_eval_batch_size": device_batch,
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": config.machine.dataloader_num_workers,
        "bf16": device.name == "cuda",
        "use_cpu": device.name == "cpu",
        "include_num_input_tokens_seen": "all" if packed or config.sft.get("padding_free") else "non_padding",
        # The rows have token ids and labels already, and preprocess applied the length limit.
        **({} if packed else {"max_length": None}),
        "packing_strategy": "bfd",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": config.machine.report_to or "none",
    }
    lora = build_config(params, "train.lora", copy.deepcopy(config.lora), peft.LoraConfig)  # PEFT changes its lists
    if config.method != "full":
        adapter_config.require_known(f"{params}: train.lora", lora.to_dict())
    arguments = build_config(params, "train.sft", config.sft, trl.SFTConfig, fixed)
    return (None if config.method == "full" else lora), arguments


def split_batch(batch_size: int, device_batch_size: int, world_size: int) -> tuple[int, int]:
    """Split the global batch over processes and accumulation steps.

    Args:
        batch_size: rows per optimizer step, over all processes.
        device_batch_size: rows that fit on a device.
        world_size: number of processes.

    Returns:
        Rows per device and forward pass, and accumulation steps. Their product times `world_size` is `batch_size`.

    Raises:
        click.ClickException: `batch_size` is not a multiple of `world_size`.
    """
    per_process, rest = divmod(batch_size, world_size)
    if rest or not per_process:
        raise click.ClickException(
            f"train.batch_size {batch_size} is not a multiple of {world_size} processes; change one of them"
        )
    size = max(size for size in range(1, min(device_batch_size, per_process) + 1) if per_process % size == 0)
    return size, per_process // size


def _prepare_reports(params: Path, names: Sequence[str]) -> None:
    """Send what TensorBoard, Weights & Biases and MLflow write to the log folder, unless the environment is set."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name is not the library
            raise click.ClickException(
                f"{params}: train.machine.report_to: {name} is not installed; run "
                f"`.venv/bin/uv pip install --python .venv -c requirements/pipeline.txt {PACKAGES[name]}`"
            )
    logs = Path(os.environ.get("LOG_FOLDER", ".scratch")).absolute()
    variables = {
        "TENSORBOARD_LOGGING_DIR": f"{logs}/tensorboard",
        "WANDB_DIR": str(logs),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "lockstep",
        "MLFLOW_TRACKING_URI": f"sqlite:///{logs}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "lockstep",
    }
    for key, value in variables.items():
        os.environ.setdefault(key, value)
