"""Time what each stage imports, and how long train needs to its first step, against the libraries' own imports.

CPU seconds, each in a process of its own, with nothing else in it. Run it with `make bench`, or with `docker/run
--no-log python -m tools.bench.imports`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tools.bench.workspace import ROOT, make_workspace

# What a stage imports, and the libraries that it cannot do without.
STAGES = {
    "base": (
        ["stages.base", "stages.common.tiny", "torch", "transformers.AutoModelForCausalLM"],
        ["torch", "transformers.AutoModelForCausalLM"],
    ),
    "preprocess": (
        ["stages.preprocess", "stages.common.ledger", "stages.common.intake"],
        ["numpy", "pyarrow.parquet", "tokenizers", "orjson", "pydantic", "ruamel.yaml", "jinja2"],
    ),
    "train": (
        ["stages.train", "stages.common.learning", "stages.common.training", "stages.common.method"],
        ["torch", "transformers", "trl.SFTTrainer", "peft.LoraConfig"],
    ),
    "merge": (
        ["stages.merge", "transformers.AutoModelForCausalLM", "peft.PeftModel"],
        ["torch", "transformers.AutoModelForCausalLM", "peft.PeftModel"],
    ),
    "awq": (
        ["stages.awq", "transformers.AutoModelForCausalLM", "llmcompressor.oneshot"],
        ["torch", "transformers.AutoModelForCausalLM", "llmcompressor.oneshot"],
    ),
    "eval": (
        ["stages.eval", "transformers.AutoModelForCausalLM"],
        ["torch", "transformers.AutoModelForCausalLM"],
    ),
    "report": (["stages.report"], ["click", "pydantic", "ruamel.yaml"]),
}
FIRST_STEP = """
from stages.common import imports
with imports.swift():
    from stages.common import callbacks
def first(*arguments, **named):
    raise SystemExit
callbacks.Pace.on_step_begin = first
from stages.train import main
main({arguments}, standalone_mode=False)
"""


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True, help="The median is shown.")
def main(repeats: int) -> None:
    for stage, (ours, libraries) in STAGES.items():
        code, least = imported(ours), imported(libraries)
        shown = [seconds(text, repeats) for text in (code, least)]
        click.echo(f"imports of {stage:10}  {shown[0]:5.1f} CPU s  {shown[0] / shown[1]:5.2f} times its libraries'")
    with tempfile.TemporaryDirectory() as name:
        make_workspace(Path(name), 16)
        start = seconds(first_step(Path(name)), repeats, Path(name))
    bound = seconds(imported(["torch", "transformers", "trl", "peft"]), repeats)
    click.echo(f"train, start to first step {start:.1f} CPU s, {start / bound:.2f} times its imports (at most 1.2)")


def imported(names: list[str]) -> str:
    """Give the code that imports modules, or objects of them."""
    return "\n".join(
        f"from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}" if "." in name else f"import {name}"
        for name in names
    )


def first_step(folder: Path) -> str:
    """Give the code of a training that ends when its first step would begin."""
    paths = {
        "--params": ROOT / "params.yaml",
        "--base": folder / "base",
        "--train": folder / "train.arrow",
        "--val": folder / "train.arrow",
        "--out": folder / "adapter",
        "--metrics": folder / "train.json",
        "--curves": folder / "curves",
    }
    return FIRST_STEP.format(arguments=json.dumps([str(part) for pair in paths.items() for part in pair]))


def seconds(code: str, repeats: int, folder: Path = ROOT) -> float:
    """Run code in new processes in `folder`, and give the median of the CPU time that each took."""
    ending = """
import atexit, resource
def used():
    found = resource.getrusage(resource.RUSAGE_SELF)
    print(found.ru_utime + found.ru_stime)
atexit.register(used)
"""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", ending + code],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(float(done.stdout.split()[-1]))
    return statistics.median(runs)


if __name__ == "__main__":
    main()
