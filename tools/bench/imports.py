"""Measure the imports of each stage, and train up to its first step, beside the imports of their libraries alone.

CPU seconds, each measured in a process of its own. Run it with `make bench`, or with `docker/run --no-log python -m
tools.bench.imports`.
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

# The imports of a stage, and the libraries that it needs.
STAGES = {
    "base": (
        ["stages.base.__main__", "stages.base.tiny_model", "torch", "transformers.AutoModelForCausalLM"],
        ["torch", "transformers.AutoModelForCausalLM"],
    ),
    "preprocess": (
        ["stages.preprocess.__main__", "stages.preprocess.split", "stages.preprocess.encode"],
        ["numpy", "pyarrow.parquet", "tokenizers", "orjson", "pydantic", "ruamel.yaml", "jinja2"],
    ),
    "train": (
        ["stages.train.__main__", "stages.train.loop", "stages.train.configs", "stages.train.model"],
        ["torch", "transformers", "trl.SFTTrainer", "peft.LoraConfig"],
    ),
    "merge": (
        ["stages.merge.__main__", "transformers.AutoModelForCausalLM", "peft.PeftModel"],
        ["torch", "transformers.AutoModelForCausalLM", "peft.PeftModel"],
    ),
    "awq": (
        ["stages.awq.__main__", "transformers.AutoModelForCausalLM", "llmcompressor.oneshot"],
        ["torch", "transformers.AutoModelForCausalLM", "llmcompressor.oneshot"],
    ),
    "eval": (
        ["stages.eval.__main__", "transformers.AutoModelForCausalLM"],
        ["torch", "transformers.AutoModelForCausalLM"],
    ),
    "report": (["stages.report.__main__"], ["click", "pydantic", "ruamel.yaml"]),
}
FIRST_STEP = """
import gc, runpy, sys
gc.disable()
from stages.train.callbacks import Speed
gc.enable()
def first(*arguments, **named):
    raise SystemExit
Speed.on_step_begin = first
sys.argv[1:] = {arguments}
runpy.run_module("stages.train", run_name="__main__")
"""


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True, help="Print the median of so many runs.")
def main(repeats: int) -> None:
    for stage, (ours, libraries) in STAGES.items():
        code, least = imported(ours), imported(libraries)
        shown = [seconds(text, repeats) for text in (code, least)]
        click.echo(f"imports of {stage:10}  {shown[0]:5.1f} CPU s  {shown[0] / shown[1]:5.2f} times its libraries")
    with tempfile.TemporaryDirectory() as name:
        make_workspace(Path(name), 16)
        start = seconds(first_step(Path(name)), repeats, Path(name))
    bound = seconds(imported(["torch", "transformers", "trl", "peft"]), repeats)
    click.echo(f"train, start to first step {start:.1f} CPU s, {start / bound:.2f} times its imports (at most 1.2)")


def imported(names: list[str]) -> str:
    """Return code that imports modules, or objects of them."""
    return "\n".join(
        f"from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}" if "." in name else f"import {name}"
        for name in names
    )


def first_step(folder: Path) -> str:
    """Return the code of a training that ends before its first step."""
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
    """Run code in new processes in `folder`, and return the median of their CPU seconds."""
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
