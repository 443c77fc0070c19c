"""Measure training on a GPU: speed, model FLOPs utilisation, memory, on models of real shapes with random weights.

LoRA of rank 16 on every linear layer, bf16, one packed row of 2,048 tokens per step. Model FLOPs are 4 per weight and
token (forward, and backward to the activations; frozen weights have no gradient), and those of attention. Without a
GPU it prints that and measures nothing. Run it with `make bench-gpu`, or with `docker/run --no-log python -m
tools.bench.gpu`.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from stages.common import device, tokens
from stages.common.params import load_params
from stages.train.params import TrainParams
from tools.bench.workspace import LORA, ROOT
from tools.common.project import DEFAULTS

# config.json of Qwen2.5-0.5B and Qwen2.5-7B
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
# Dense bf16 FLOPs per second, from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "4090": 165e12}
LENGTH = 2048


@click.command(help=__doc__)
@click.option("--steps", default=12, show_default=True, help="The first two warm up and are not measured.")
@click.option("--attention", default="sdpa", show_default=True)
def main(steps: int, attention: str) -> None:
    hardware = device.choose()
    if hardware.name != "cuda":
        click.echo(f"nothing measured: {hardware.reason}")
        return
    import torch

    name = torch.cuda.get_device_name()
    peak = next((value for part, value in PEAKS.items() if part in name), None)
    click.echo(f"{name}, attention {attention}, {LENGTH} tokens per step")
    for label, shape in SHAPES.items():
        for sft in ({}, {"gradient_checkpointing": True}):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            speed, flops = measure(shape, steps, attention, sft)
            used = (
                f"{flops * speed / peak:6.1%} of {peak / 1e12:.0f} TFLOPS"
                if peak
                else "peak speed of this GPU unknown"
            )
            memory = torch.cuda.max_memory_allocated() / 1e9
            way = "gradient checkpointing" if sft else "all activations kept"
            click.echo(f"{label:5} {way:23} {speed:8.0f} tokens/s, {used}, {memory:5.1f} GB")


def measure(
    shape: dict[str, Any],
    steps: int,
    attention: str,
    sft: dict[str, Any],
    length: int = LENGTH,
    base: Path = ROOT / "models" / "base",
) -> tuple[float, float]:
    """Train a model with random weights, by the stage's trainer.

    Args:
        shape: keys of its config.
        steps: number of steps; the first two warm up.
        attention: attn_implementation.
        sft: changed keys of train.sft.
        length: tokens of a packed row.
        base: a model folder, for its tokenizer.

    Returns:
        Tokens per second after the first two steps, and model FLOPs per token.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

    from stages.train.configs import make_configs
    from stages.train.trainer import make_trainer

    params, hardware = ROOT / DEFAULTS, device.choose()
    config = load_params(params, "train", TrainParams)
    machine = config.machine.model_copy(update={"device_batch_size": 1, "report_to": [], "save_steps": 10**6})
    changed = config.sft | {"packing": True, "max_length": length, "max_steps": steps, "eval_strategy": "no"} | sft
    config = config.model_copy(update={"batch_size": 1, "machine": machine, "lora": LORA, "sft": changed})
    lora, arguments = make_configs(params, config, hardware)
    torch.manual_seed(7)
    with torch.device(hardware.name):
        model = Qwen2ForCausalLM._from_config(
            Qwen2Config(**shape, max_position_embeddings=length), dtype=hardware.dtype, attn_implementation=attention
        )
    marks: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            if hardware.name == "cuda":
                torch.cuda.synchronize()
            marks.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder), steps, length)
        trainer = make_trainer(params, config, model, base, (rows, rows), lora, arguments, Path(folder))
        trainer.add_callback(Watch())
        trainer.train()
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "embed_tokens" not in name)
    if shape["tie_word_embeddings"]:
        weights += shape["vocab_size"] * shape["hidden_size"]
    # Causal attention computes half of the scores.
    scores = 2 * 2 * 2 * shape["num_hidden_layers"] * shape["hidden_size"] * length / 2
    return length * (len(marks) - 2) / (marks[-1] - marks[1]), 4 * weights + scores


def write_rows(folder: Path, count: int, length: int) -> Path:
    """Write a token file that fills `count` packed rows, each with one row of 3/4 and one of 1/4 of its length."""
    import pyarrow as pa

    rng = random.Random(7)
    sizes = [length * 3 // 4, length // 4] * count
    ids = [[rng.randrange(1, 800) for _ in range(size)] for size in sizes]
    path = folder / "rows.arrow"
    with pa.ipc.new_stream(str(path), tokens.SCHEMA) as out:
        out.write_batch(pa.record_batch([ids, [[1] * size for size in sizes]], schema=tokens.SCHEMA))
    return path


if __name__ == "__main__":
    main()
