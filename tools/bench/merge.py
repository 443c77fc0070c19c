"""Time the merge of weights against a plain copy of the same bytes, and against PEFT's merge_and_unload and save.

The model has the shape of Qwen2.5-0.5B in bfloat16, with random weights and an adapter of rank 16 on every linear
layer, both made in a temporary folder. The three ways run one after the other, each in a process of its own. The
times are those of the work, and of the process with start-up and imports. Then one layer of Qwen2.5-32B shows that
memory does not grow with the model. Run it with `make bench`, or with `docker/run --no-log python -m
tools.bench.merge`.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES = {
    "Qwen2.5-0.5B": (151_936, (896, 4864, 24, 14, 2)),
    "one layer of Qwen2.5-32B": (1024, (5120, 27_648, 1, 40, 8)),
}
RANK = 16


class Cost(NamedTuple):
    """Seconds of the work, seconds of the process with start-up, and the process's peak memory."""

    seconds: float
    process_seconds: float
    peak_bytes: int


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True, help="Rounds; the medians are shown.")
def main(repeats: int) -> None:
    small, large = SHAPES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("make", folder, small)
        size = (folder / "base" / "model.safetensors").stat().st_size
        click.echo(f"{small}, {size / 1e6:.0f} MB, {os.cpu_count()} cores: work, process with start-up, peak memory")
        rounds = [(run("copy", folder), run("merge", folder), run("by_peft", folder)) for _ in range(repeats)]
        labels = ("plain copy", "merge", "merge_and_unload + save")
        for label, costs in zip(labels, zip(*rounds, strict=True), strict=True):
            seconds, process, peak = (median(values) for values in zip(*costs, strict=True))
            click.echo(f"{label:23}  {seconds:6.2f} s  {process:6.2f} s  {peak / 1e6:5.0f} MB")
        slower = median([merge.seconds / copy.seconds for copy, merge, _ in rounds])
        faster = median([peft.process_seconds / merge.process_seconds for _, merge, peft in rounds])
        peak = max(merge.peak_bytes for _, merge, _ in rounds)
        click.echo(f"merge / copy, work: {slower:.1f} (at most 4); peak {peak / 1e6:.0f} MB (at most 300)")
        click.echo(f"merge_and_unload + save / merge, processes with start-up: {faster:.1f} (at least 10)")
        run("make", folder, large)
        size, cost = (folder / "base" / "model.safetensors").stat().st_size, run("merge", folder)
        click.echo(f"{large}, {size / 1e6:.0f} MB: {cost.seconds:.2f} s, peak {cost.peak_bytes / 1e6:.0f} MB")


def median(values: Any) -> Any:
    """Return the middle value."""
    return sorted(values)[len(values) // 2]


def run(way: str, folder: Path, *arguments: str) -> Cost:
    """Call one of the functions below in a process of its own; a failure ends the benchmark with its output."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()  # so that no process waits for the writes of an earlier one
    code = f"from tools.bench import merge; merge.{way}(*{[str(folder), *arguments]})"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = done.stdout.split()[-2:]
    return Cost(float(seconds), time.monotonic() - start, int(peak))


def timed(folder: str, work: Callable[[Path], Any]) -> None:
    """Do work that fills the folder `out`, and print its seconds and the process's peak memory in bytes."""
    start = time.monotonic()
    work(Path(folder) / "out")
    seconds = time.monotonic() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def make(folder: str, shape: str) -> None:
    """Write a model of random weights, and an adapter for it."""
    import peft
    import torch
    import transformers

    from stages.common import trained_on

    torch.manual_seed(7)
    vocabulary, sizes = SHAPES[shape]
    named = dict(zip(SIZES, sizes, strict=True)) | {"vocab_size": vocabulary}
    config = transformers.Qwen2Config(**named, max_position_embeddings=1024, tie_word_embeddings=True)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")

    def work(_: Path) -> None:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(base)
        adapted = peft.get_peft_model(model, lora)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)
        adapted.save_pretrained(adapter)
        trained_on.note(base, adapter)

    base, adapter = Path(folder) / "base", Path(folder) / "adapter"
    timed(folder, work)


def copy(folder: str) -> None:
    """Copy the base's weights."""
    name = "model.safetensors"
    timed(folder, lambda out: shutil.copyfile(Path(folder) / "base" / name, out / name))


def merge(folder: str) -> None:
    """Merge as the stage does."""
    from stages.common import adapter_config, files
    from stages.merge.plan import plan_merge
    from stages.merge.rewrite import rewrite_weights

    base, adapter = Path(folder) / "base", Path(folder) / "adapter"

    def work(out: Path) -> None:
        lora = files.read_json(adapter / adapter_config.CONFIG)
        rewrite_weights(base, adapter, out, plan_merge(base, adapter, lora))

    timed(folder, work)


def by_peft(folder: str) -> None:
    """Merge as PEFT's documentation does."""
    import peft
    import torch
    import transformers

    load = transformers.Qwen2ForCausalLM.from_pretrained

    def work(out: Path) -> None:
        model = peft.PeftModel.from_pretrained(load(f"{folder}/base", dtype=torch.bfloat16), f"{folder}/adapter")
        model.merge_and_unload().save_pretrained(out)

    timed(folder, work)


if __name__ == "__main__":
    main()
