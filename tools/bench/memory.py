"""Measure the memory that each way of training takes, beside what the stage says beforehand.

Two steps of 2 rows of at most 1,024 tokens on a model of 50 million weights, each way in its own process: what it
takes at most on top of the imported libraries (on a GPU: of the GPU's memory). Run it with `make bench`, or with
`docker/run --no-log python -m tools.bench.memory`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from tools.bench.workspace import LONGEST, ROOT, make_trainer, make_workspace

RANK = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # keys of train.sft, keys of train
    "lora": ({}, {"lora": RANK}),
    "lora, rsLoRA": ({}, {"lora": RANK | {"use_rslora": True}}),
    "lora, DoRA": ({}, {"lora": RANK | {"use_dora": True}}),
    "lora, packed": ({"packing": True, "max_length": LONGEST}, {"lora": RANK}),
    "lora, gradient checkpointing": ({"gradient_checkpointing": True}, {"lora": RANK}),
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
            command = [
                sys.executable,
                "-m",
                "tools.bench.memory",
                "--rows",
                str(rows),
                "--only",
                way,
                "--folder",
                name,
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            click.echo(f"{way:30}  {done.stdout.splitlines()[-1]}")


def measure(folder: Path, rows: int, sft: dict[str, Any], fixed: dict[str, Any]) -> str:
    """Train two steps and tell the most memory that they took, and the estimate."""
    import torch

    from stages.common import outlook

    before = peak()
    batch = 1 if sft.get("packing") else rows
    trainer = make_trainer(folder, batch, sft | {"max_steps": 2}, **fixed)
    trainer.train()
    taken = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak() - before
    weights = outlook.held(trainer.model)
    activations = outlook.activations(trainer, max(trainer.grouped.lengths))
    return f"{taken / 1e6:6.0f} MB; estimated {weights / 1e6:4.0f} + {activations / 1e6:5.0f} MB"


def peak() -> int:
    """Give the most memory in bytes that this process ever held."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
