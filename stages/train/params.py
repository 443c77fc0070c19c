"""Params of the train stage: what is trained, how, and how the work is laid out on the machine."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from stages.common.params import Section


class MachineParams(Section):
    """params.yaml: train.machine, which DVC does not track: it fits the work to the machine."""

    device_batch_size: PositiveInt
    dataloader_num_workers: int = Field(ge=0)
    save_steps: PositiveInt
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]]


class TrainParams(Section):
    """params.yaml: train. `lora` goes to `peft.LoraConfig` and `sft` to `trl.SFTConfig` unchanged."""

    seed: int
    method: Literal["lora", "qlora", "full"]
    resume_from: str | None
    batch_size: PositiveInt
    keep: Literal["last", "best"]
    early_stopping: PositiveInt | None
    max_loss: float = Field(gt=0)
    attn_implementation: str
    lora: dict[str, Any]
    sft: dict[str, Any]
    machine: MachineParams
