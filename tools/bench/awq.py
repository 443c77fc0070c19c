"""Measure the time and the host memory that awq needs, and compare the memory with the model's size.

A Qwen2 with random weights is quantised with the repository's params on a few rows, in a process of its own. Its peak
memory, without that of the libraries, is shown as a multiple of the model's bytes in float32.
With a GPU, the peak of its memory is shown too. Run it with `make bench`, or with `docker/run --no-log python -m
tools.bench.awq`.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from stages.common import files, tokens
from stages.common.params import read_yaml

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 32_000
# Runs the stage, or only imports its libraries, and prints seconds and peak memory. VmHWM is this process's own peak
# on Linux; getrusage also counts the process that started it.
CHILD = """
import json, runpy, sys, time
import llmcompressor, torch, transformers
import stages.awq.calibration, stages.awq.model, stages.awq.schemes, stages.awq.verify
start = time.monotonic()
if sys.argv[1:]:
    try:
        runpy.run_module("stages.awq", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
used = {"seconds": time.monotonic() - start}
used["host"] = 1024 * int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
used["gpu"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
print(json.dumps({key: round(value / 1e9, 2) if value > 1e6 else round(value) for key, value in used.items()}))
"""
PATHS = {
    "params": "params.yaml",
    "base": "model",
    "adapter": "model",  # as a full fine-tuning leaves it
    "val": "rows.arrow",
    "merge": "merge.json",
    "calibration": "rows.arrow",
    "out": "awq",
    "metrics": "awq.json",
}


@click.command(help=__doc__)
@click.option("--hidden", default=768, show_default=True, help="Width of the model.")
@click.option("--layers", default=6, show_default=True)
@click.option("--rows", default=4, show_default=True, help="Calibration rows.")
@click.option("--length", default=32, show_default=True, help="Tokens of a row.")
def main(hidden: int, layers: int, rows: int, length: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = make_workspace(folder, hidden, layers, rows, length)
        options = [part for key, path in PATHS.items() for part in (f"--{key}", str(folder / path))]
        alone, used = run([]), run(options)
    size = weights * 4 / 1e9  # float32, on any device
    click.echo(f"{weights / 1e6:.0f} million weights, {size:.2f} GB in memory; {rows} rows of {length} tokens")
    click.echo(f"{used['seconds']} s; peak of host memory {used['host']} GB, of which libraries {alone['host']} GB")
    click.echo(f"host memory without the libraries: {(used['host'] - alone['host']) / size:.2f} times the model")
    if used["gpu"]:
        click.echo(f"peak of GPU memory: {used['gpu']} GB, {used['gpu'] / size:.2f} times the model")


def run(options: list[str]) -> dict[str, Any]:
    """Run the stage in a new process, and return its seconds and its peaks in GB on the host and on the GPU."""
    command = [sys.executable, "-c", CHILD, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"awq failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make_workspace(folder: Path, hidden: int, layers: int, rows: int, length: int) -> int:
    """Write a model with random weights, rows of random tokens and params, and return the number of weights."""
    import pyarrow as pa
    import torch
    from ruamel.yaml import YAML
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64}
    config = Qwen2Config(**shape, **heads, vocab_size=VOCABULARY, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(ROOT / "models" / "base").save_pretrained(folder / "model")
    known = {"kl_base_mean": 1.0, "rows": rows, "size_bytes": files.size_bytes(folder / "model")}
    files.write_json(folder / "merge.json", known)
    rng = random.Random(7)
    ids = [[rng.randrange(3, 800) for _ in range(length)] for _ in range(rows)]
    masks = [[0] * (length // 2) + [1] * (length - length // 2) for _ in range(rows)]
    with pa.ipc.new_stream(str(folder / "rows.arrow"), tokens.SCHEMA) as out:
        out.write_batch(pa.record_batch([ids, masks], schema=tokens.SCHEMA))
    params = read_yaml(ROOT / "params.yaml")
    params["awq"]["samples"] = rows
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    return sum(weight.numel() for weight in model.parameters())


if __name__ == "__main__":
    main()
