"""Measure served models: requests and tokens per second and the time to the first token, with 1, 8 and 32 clients.

Runs vLLM's own client, `vllm bench serve`, on every model that `make serve` started, through nginx and with the key,
as any other client: prompts of random tokens, answers of a fixed length. Run it with `make bench-serve` after `make
serve MODELS=merged,awq`, or with `python -m tools.bench.serve`.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from stages.eval.vllm_server import SETTINGS
from tools.common.endpoints import Endpoint, require_state
from tools.common.serve_secrets import load_secrets
from tools.serve.vllm_command import find_vllm

LEVELS = (1, 8, 32)


@click.command(help=__doc__)
@click.option("--prompts", default=64, show_default=True, help="Requests per measurement.")
@click.option("--input-length", default=128, show_default=True, help="Tokens per prompt.")
@click.option("--output-length", default=64, show_default=True, help="Tokens per answer.")
def main(prompts: int, input_length: int, output_length: int) -> None:
    key = load_secrets()["API_KEY"]
    click.echo("| model | clients | requests/s | tokens/s | first token, median | 99 % | next token, median |")
    click.echo("|---|---|---|---|---|---|---|")
    for one in require_state().endpoints:
        for level in LEVELS:
            found = measure(
                one,
                key,
                ["--num-prompts", str(prompts), "--max-concurrency", str(level)],
                {"input": input_length, "output": output_length},
            )
            times = " | ".join(
                f"{found[name]:.1f} ms" for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms")
            )
            speed = f"{found['request_throughput']:.2f} | {found['output_throughput']:.0f}"
            click.echo(f"| {one.name} | {level} | {speed} | {times} |")


def measure(one: Endpoint, key: str, load: list[str], lengths: dict[str, int]) -> dict[str, Any]:
    """Run vLLM's client once, and return its figures.

    Raises:
        click.ClickException: the client or a request failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(find_vllm()), "bench", "serve", "--base-url", one.address.removesuffix("/v1")),
            *("--model", one.name, "--tokenizer", one.folder, "--endpoint", "/v1/completions"),
            *("--dataset-name", "random", "--ignore-eos", "--num-warmups", "4", "--seed", "7"),
            *("--extra-body", json.dumps({"return_token_ids": True})),  # else tokens without text are not sent
            *(part for name, value in lengths.items() for part in (f"--random-{name}-len", str(value))),
            *("--save-result", "--result-dir", folder, "--result-filename", "result.json", *load),
        ]
        variables = os.environ | SETTINGS | {"OPENAI_API_KEY": key}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"vllm bench serve failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    if found.get("failed"):
        raise click.ClickException(f"{one.name}: {found['failed']} requests failed; run `make logs` to see why")
    return found


if __name__ == "__main__":
    main()
