"""Time training against a bare loop on the very same batches, and against TRL's own defaults on the same rows.

A Qwen2 of 50 million random weights learns LoRA (rank 16, every linear layer) on rows with alpaca's lengths, on the
device at hand. The bare loop is PyTorch and PEFT: forward, backward, clip, AdamW. Start-up and the first step,
which warms up, are left out. Run it with `make bench`, or with `docker/run --no-log python -m tools.bench.train`.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from stages.common import tokens
from tools.bench.workspace import LONGEST, make_trainer, make_workspace

PACKED = {"packing": True, "max_length": LONGEST}  # the batch counts packed rows, so it is one


@click.command(help=__doc__)
@click.option("--rows", default=64, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Rows per step.")
@click.option("--repeats", default=1, show_default=True, help="The median ratio is shown.")
def main(rows: int, batch: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, rows)
        total = sum(tokens.lengths(folder / "train.arrow"))
        click.echo(f"{rows} rows, {total} tokens, {batch} rows a step")
        runs = [
            {
                "bare loop": bare(folder, batch),
                "stage": stage(folder, batch),
                "stage, packed": stage(folder, batch, PACKED),
                "trl sft defaults": defaults(folder, batch),
            }
            for _ in range(repeats)
        ]
    for label in runs[0]:
        click.echo(f"{label:16}  {statistics.median(run[label] for run in runs):8.0f} tokens/s")
    for other, least in (("bare loop", 0.9), ("trl sft defaults", 2)):
        ratio = statistics.median(run["stage"] / run[other] for run in runs)
        click.echo(f"stage / {other} {ratio:.2f} (at least {least})")


def bare(folder: Path, batch: int) -> float:
    """Run the loop that does nothing else, on the batches that the stage makes, and give tokens per second."""
    import torch

    trainer = make_trainer(folder, batch)
    batches = list(trainer.get_train_dataloader())
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, fused=True
    )
    done, start = 0, 0.0
    for number, inputs in enumerate(batches):
        if number == 1:
            done, start = 0, time.monotonic()
        model(**inputs, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += int(inputs["attention_mask"].sum())
    return done / (time.monotonic() - start)


def stage(folder: Path, batch: int, sft: dict[str, Any] | None = None) -> float:
    """Train as the stage does, and give tokens per second."""
    return timed(make_trainer(folder, 1 if sft else batch, sft))


def defaults(folder: Path, batch: int) -> float:
    """Train as TRL does when nobody sets anything, and give tokens per second."""
    import trl

    ours = make_trainer(folder, batch)
    arguments = trl.SFTConfig(
        output_dir=str(folder / "defaults"),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        report_to="none",
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=ours.args.bf16,
        use_cpu=ours.args.use_cpu,
    )
    return timed(
        trl.SFTTrainer(
            model=ours.model,
            args=arguments,
            train_dataset=tokens.dataset(folder / "train.arrow"),
            processing_class=ours.processing_class,
        )
    )


def timed(trainer: Any) -> float:
    """Run a trainer, and give its tokens per second after the first step."""
    from transformers import TrainerCallback

    from stages.common import packing

    class Watch(TrainerCallback):
        marks: list[float] = []  # noqa: RUF012  one trainer's

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.marks.append(time.monotonic())

    counted: list[int] = []
    step = trainer.training_step

    def counting(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        counted.append(sum(map(len, packing.rows(inputs))))
        return step(model, inputs, *rest, **named)

    trainer.training_step = counting
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return sum(counted[1:]) / (watch.marks[-1] - watch.marks[0])


if __name__ == "__main__":
    main()
