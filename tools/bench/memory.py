"""Measure the peak memory of each way of training, beside the estimate that the stage prints.

Two steps of 2 rows of at most 1,024 tokens on a model with 50 million weights, each way in a process of its own. The
memory of the imported libraries is subtracted; on a GPU it is the GPU's memory. Run it with `make bench`, or with
`docker/run --no-log python -m tools.bench.memory`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from stages.common import device
from tools.bench.workspace import LONGEST, LORA, ROOT, bench_trainer, make_workspace

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # keys of train.sft, keys of train
    "lora": ({}, {"lora": LORA}),
    "lora, rsLoRA": ({}, {"lora": LORA | {"use_rslora": True}}),
    "lora, DoRA": ({}, {"lora": LORA | {"use_dora": True}}),
    "lora, packed": ({"packing": True, "max_length": LONGEST}, {"lora": LORA}),
    "lora, gradient checkpointing": ({"gradient_checkpointing": True}, {"lora": LORA}),
    "full": ({}, {"method": "full"}),
    "full, gradient checkpointing": ({"gradient_checkpointing": True}, {"method": "full"}),
}


@click.command(help=__doc__)
@click.option("--rows", default=2, show_default=True, help="Rows per step.")
@click.option("--only", type=click.Choice(list(WAYS)), help="Measure one way, in this process.")
@click.option("--folder", type=click.Path(path_type=Path), help="With --only: model and rows.")
def main(rows: int, only: str | None, folder: Path | None) -> None:
    if only and folder:
        click.echo(measure(folder, rows, *WAYS[only]))
        return
    with tempfile.TemporaryDirectory() as name:
        make_workspace(Path(name), 8 * rows)
        for way in WAYS:
            command = [sys.executable, "-m", "tools.bench.memory", "--rows", str(rows)]
            command += ["--only", way, "--folder", name]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            click.echo(f"{way:30}  {done.stdout.splitlines()[-1]}")


def measure(folder: Path, rows: int, sft: dict[str, Any], fixed: dict[str, Any]) -> str:
    """Train two steps, and format their peak memory and the estimate."""
    import torch

    from stages.train.memory import largest_batch, peak_bytes

    before = peak()
    batch = 1 if sft.get("packing") else rows
    trainer = bench_trainer(folder, batch, sft | {"max_steps": 2}, **fixed)
    places = largest_batch(trainer.sampler, trainer.args)
    largest = [trainer.train_dataset[place] for place in places]
    estimated = sum(peak_bytes(trainer.model, trainer.args, trainer.data_collator(largest)))
    trainer.train()
    taken = torch.cuda.max_memory_allocated() if device.choose().name == "cuda" else peak() - before
    return f"{taken / 1e6:6.0f} MB; estimated {estimated / 1e6:5.0f} MB, {estimated / taken:.2f} of it"


def peak() -> int:
    """Read the peak memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
