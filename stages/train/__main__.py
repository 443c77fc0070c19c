"""Fine-tune the base model on assistant tokens and stop tokens: LoRA, QLoRA or full fine-tuning.

Third stage: reads models/base and data/prepared, writes models/adapter, its scores and its curves. A run that was
interrupted resumes from its last checkpoint and ends with the same bytes. Run it with `dvc repro train`, or alone
with `python -m stages.train`.
"""

import gc
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from stages.common import device, files, model_folder, tokens
from stages.common.params import load_params
from stages.train.checkpoints import checkpoint_folder, reserved
from stages.train.params import TrainParams


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
    config = load_params(params, "train", TrainParams)
    model_folder.require(base, "dvc repro base")
    files.require(base / "tokenizer.json", "dvc repro base")
    gc.disable()  # imports leave no garbage, and searching for it is a seventh of their time
    from stages.train.callbacks import Curves
    from stages.train.checks import check_model, check_settings
    from stages.train.configs import make_configs
    from stages.train.loop import final_eval_loss, train_to_end
    from stages.train.model import load_model
    from stages.train.output import save_model, summary
    from stages.train.plan import describe_plan
    from stages.train.trainer import make_trainer

    gc.freeze()
    gc.enable()
    hardware = device.choose()
    lora, arguments = make_configs(params, config, hardware)

    # Inputs
    start = starts / config.resume_from if config.resume_from else None
    for path in (train, val):
        tokens.table(path)
    check_settings(params, base, config, lora, start)
    first = os.environ.get("RANK", "0") == "0"  # of several processes the first alone writes
    scratch = checkpoint_folder(config, [base, train, val, *([start] if start else [])])
    with reserved(scratch, start, first), files.fresh_folder(out) if first else nullcontext(out) as folder:
        model = load_model(params, base, config, hardware, start)
        trainer = make_trainer(params, config, model, base, (train, val), lora, arguments, scratch)
        check_model(params, base, trainer.model)
        if first:
            trainer.add_callback(Curves(curves))
            click.echo(describe_plan(trainer, config, hardware, train))

        # Work
        if stopped := train_to_end(trainer, params, start, train):
            click.echo(f"stopped after step {trainer.state.global_step}; the same command resumes from it", err=True)
            sys.exit(128 + stopped)
        eval_loss = final_eval_loss(trainer, config.keep)

        # Outputs
        if first:
            save_model(trainer.model, folder, base)
            files.write_json(metrics, summary(trainer, eval_loss, train, val))
    if first:
        shutil.rmtree(scratch, ignore_errors=True)
        click.echo(f"eval_loss {eval_loss} after {trainer.state.global_step} steps; adapter in {out}")


if __name__ == "__main__":
    main()
