"""Fine-tune the base model with LoRA; only the assistant's words and the stop token are learnt.

Third stage: reads models/base and data/prepared, writes models/adapter, its scores and its curves. Run it with
`dvc repro train`, or alone with `python -m stages.train`.
"""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import PositiveInt

from stages.common import device, files, settings, tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from dvclive import Live
    from transformers import PreTrainedModel, TrainerCallback
    from trl import SFTTrainer

CURVES = ("loss", "eval_loss", "learning_rate", "grad_norm")


class MachineParams(settings.Section):
    """params.yaml: train.machine, which DVC does not track: it fits the work to the memory at hand."""

    device_batch_size: PositiveInt
    dataloader_num_workers: int


class TrainParams(settings.Section):
    """params.yaml: train. `lora` goes to `peft.LoraConfig` and `sft` to `trl.SFTConfig` unchanged."""

    seed: int
    batch_size: PositiveInt
    lora: dict[str, Any]
    sft: dict[str, Any]
    machine: MachineParams


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--train", type=click.Path(path_type=Path), default="data/prepared/train.arrow", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/train.json", show_default=True)
@click.option("--curves", type=click.Path(path_type=Path), default="metrics/train", show_default=True)
def main(params: Path, base: Path, train: Path, val: Path, out: Path, metrics: Path, curves: Path) -> None:
    # Params
    config = settings.load(params, "train", TrainParams)
    files.require(base / "tokenizer.json", "dvc repro base")

    import dvclive
    import peft
    import transformers
    import trl

    place = device.choose()
    lora = settings.build(params, "train.lora", config.lora, peft.LoraConfig)
    arguments = settings.build(params, "train.sft", config.sft, trl.SFTConfig, fixed_settings(config, place))

    # Inputs
    train_rows, val_rows = labelled(train), labelled(val)
    transformers.enable_full_determinism(config.seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=place.dtype)
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")

    # Work
    with files.fresh_folder(curves) as drawing, files.fresh_folder(out) as folder:
        with dvclive.Live(dir=str(drawing), dvcyaml=None, save_dvc_exp=False) as live:
            trainer = make_trainer(
                params,
                model=model,
                args=arguments,
                train_dataset=train_rows,
                eval_dataset=val_rows,
                processing_class=transformers.AutoTokenizer.from_pretrained(base),
                peft_config=lora,
                callbacks=[curve_callback(live)],
            )
            trainer.train()
            eval_loss = final_eval_loss(trainer)

        # Outputs
        save_adapter(trainer.model, folder, base)
        trainable, total = trainer.model.get_nb_trainable_parameters()
        summary = {
            "eval_loss": round(eval_loss, 6),
            "steps": trainer.state.global_step,
            "rows_train": len(train_rows),
            "rows_val": len(val_rows),
            "supervised_tokens": tokens.supervised(tokens.table(train)),
            "trainable_parameters": trainable,
            "total_parameters": total,
        }
        files.write_json(metrics, summary)
    click.echo(f"eval_loss {summary['eval_loss']} after {summary['steps']} steps; adapter in {out}")


def fixed_settings(config: TrainParams, place: device.Device) -> dict[str, Any]:
    """Give the SFTConfig keys that follow from the stage and the machine and are not for users to set."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device_batch, accumulation = split_batch(config.batch_size, config.machine.device_batch_size, world_size)
    return {
        # Nothing is written here; checkpoints never land in an out.
        "output_dir": ".scratch/train",
        "save_strategy": "no",
        "seed": config.seed,
        "data_seed": config.seed,
        "full_determinism": True,
        "per_device_train_batch_size": device_batch,
        "per_device_eval_batch_size": device_batch,
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": config.machine.dataloader_num_workers,
        "bf16": place.name == "cuda",
        "use_cpu": place.name == "cpu",
        # The rows come with token ids and labels, and preprocess kept the length limit.
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": "none",
    }


def make_trainer(params: Path, **arguments: Any) -> "SFTTrainer":
    """Build the trainer; settings that do not fit the model are found only here."""
    import trl

    try:
        return trl.SFTTrainer(**arguments)
    except ValueError as error:
        raise click.ClickException(f"{params}: train: {' '.join(str(error).split())}") from None


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


def labelled(path: Path) -> "Dataset":
    """Open a token file, memory-mapped, with labels beside it: -100 on every token that is not learnt.

    TRL makes labels from `assistant_masks` only in the preparation that is skipped here; its collator knows no masks.
    """
    from datasets import Dataset

    labels = tokens.labels(tokens.table(path))
    return Dataset.from_file(str(path)).add_column("labels", labels)


def curve_callback(live: "Live") -> "TrainerCallback":
    """Give a Trainer callback that draws its log as dvclive curves over `global_step`."""
    from transformers import TrainerCallback

    class Curves(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            live.step = state.global_step
            for name in CURVES:
                if name in logs:
                    live.log_metric(name, logs[name])
            live.make_summary()

    return Curves()


def final_eval_loss(trainer: "SFTTrainer") -> float:
    """Give the loss on val after the last step, evaluating only where the schedule did not end with that."""
    step = trainer.state.global_step
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log and log["step"] == step]
    loss = losses[-1] if losses else trainer.evaluate()["eval_loss"]
    if not math.isfinite(loss):
        raise click.ClickException(f"eval_loss is {loss} after {step} steps; lower train.sft.learning_rate")
    return loss


def save_adapter(model: "PreTrainedModel", folder: Path, base: Path) -> None:
    """Save the adapter with one spelling: no host paths, no library versions, no order from a hash."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.as_posix()
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):  # else one pattern, or nothing
            config[key] = sorted(config[key])
    files.write_json(file, config)


if __name__ == "__main__":
    main()
