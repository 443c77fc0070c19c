"""Fine-tune the base model on the assistant's words and the stop token: LoRA, QLoRA or every weight.

Third stage: reads models/base and data/prepared, writes models/adapter, its scores and its curves. Interrupted at any
moment it goes on from its last checkpoint when it is started again, and ends with the same bytes. Run it with
`dvc repro train`, or alone with `python -m stages.train`.
"""

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field, PositiveInt

from stages.common import device, files, folders, imports, origin, settings, tokens


class MachineParams(settings.Section):
    """params.yaml: train.machine, which DVC does not track: it fits the work to the machine at hand."""

    device_batch_size: PositiveInt
    dataloader_num_workers: int = Field(ge=0)
    save_steps: PositiveInt
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]]


class TrainParams(settings.Section):
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


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--train", type=click.Path(path_type=Path), default="data/prepared/train.arrow", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--start", "starts", type=click.Path(path_type=Path), default="data/start", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/train.json", show_default=True)
@click.option("--curves", type=click.Path(path_type=Path), default="metrics/train", show_default=True)
def main(
    params: Path, base: Path, train: Path, val: Path, starts: Path, out: Path, metrics: Path, curves: Path
) -> None:
    # Params
    config = settings.load(params, "train", TrainParams)
    folders.require(base, "dvc repro base")
    files.require(base / "tokenizer.json", "dvc repro base")

    with imports.swift():
        from stages.common import callbacks, learning, method, outlook, scratch, training

    place = device.choose()
    lora, arguments = training.configs(params, config, place)
    start = starts / config.resume_from if config.resume_from else None
    inputs = [base, train, val, *([start] if start else [])]
    for path in inputs:
        files.require(path, "dvc repro")
        if path in (train, val):
            tokens.table(path)
    first = os.environ.get("RANK", "0") == "0"  # of several processes one alone writes
    waiting = scratch.folder({"params": facts(config), "processes": os.environ.get("WORLD_SIZE", "1")}, inputs)

    with scratch.alone(waiting, first), files.fresh_folder(out) if first else nullcontext(out) as folder:
        # Inputs
        model = method.load(params, base, config, place, start)
        trainer = training.make_trainer(params, config, model, base, (train, val), lora, arguments, waiting)
        if first:
            trainer.add_callback(callbacks.Curves(curves))
            click.echo(outlook.describe(trainer, config, place, train))

        # Work
        stopped = learning.learn(trainer, params, start, train)
        if stopped:
            click.echo(
                f"stopped after step {trainer.state.global_step}; the same command goes on from there", err=True
            )
            sys.exit(128 + stopped)
        eval_loss = learning.final_eval_loss(trainer, config.keep)

        # Outputs
        if first:
            training.save(trainer.model, folder, base)
            origin.note(base, folder)
            files.write_json(metrics, learning.summary(trainer, eval_loss, train, val))
    if first:
        shutil.rmtree(waiting, ignore_errors=True)
        click.echo(f"eval_loss {eval_loss} after {trainer.state.global_step} steps; adapter in {out}")


def facts(config: TrainParams) -> dict[str, Any]:
    """Give the params that decide about the bytes: all but how often to save and where to report."""
    return config.model_dump(exclude={"machine": {"save_steps", "report_to", "dataloader_num_workers"}})


if __name__ == "__main__":
    main()
