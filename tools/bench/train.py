"""Measure the speed of training against a bare loop on the same batches, and TRL's defaults on the same rows.

Trains LoRA (rank 16, every linear layer) on a Qwen2 with 50 million random weights, on rows with the lengths of
alpaca, on the GPU if there is one. The bare loop is PyTorch and PEFT: forward, backward, clip, AdamW. Start-up and
the first step, which warms up, are not measured. Run it with `make bench`, or with `docker/run --no-log python -m
tools.bench.train`.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tools.bench.workspace import LONGEST, bench_trainer, make_workspace

PACKED = {"packing": True, "max_length": LONGEST}  # one packed row per step, as a batch counts packed rows


@click.command(help=__doc__)
@click.option("--rows", default=64, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Rows per step.")
@click.option("--repeats", default=1, show_default=True, help="Print the median of so many runs.")
def main(rows: int, batch: int, repeats: int) -> None:
    from stages.train.data import row_lengths

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, rows)
        total = sum(row_lengths(folder / "train.arrow"))
        click.echo(f"{rows} rows, {total} tokens, {batch} rows per step")
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
    """Measure the bare loop on the batches of the stage, in tokens per second."""
    import torch

    trainer = bench_trainer(folder, batch)
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
    """Measure the stage's trainer, in tokens per second."""
    return timed(bench_trainer(folder, 1 if sft else batch, sft))


def defaults(folder: Path, batch: int) -> float:
    """Measure TRL's trainer with its defaults, in tokens per second."""
    import trl

    from stages.train.data import load_rows

    ours = bench_trainer(folder, batch)
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
            train_dataset=load_rows(folder / "train.arrow"),
            processing_class=ours.processing_class,
        )
    )


def timed(trainer: Any) -> float:
    """Run a trainer, and return its tokens per second after the first step."""
    from transformers import TrainerCallback

    from stages.train.data import batch_rows

    class Watch(TrainerCallback):
        marks: list[float] = []  # noqa: RUF012  of one trainer

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.marks.append(time.monotonic())

    counted: list[int] = []
    step = trainer.training_step

    def counting(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        counted.append(sum(map(len, batch_rows(inputs))))
        return step(model, inputs, *rest, **named)

    trainer.training_step = counting
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return sum(counted[1:]) / (watch.marks[-1] - watch.marks[0])


if __name__ == "__main__":
    main()
