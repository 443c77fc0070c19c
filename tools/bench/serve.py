"""Measure what is served: requests and tokens per second and the time to the first token, at 1, 8 and 32 at once.

Uses vLLM's own client, `vllm bench serve`, on every model that `make serve` started, through the same door and with
the same key as any other client: prompts of random tokens, answers of a fixed length. Run it with `make bench-serve`
after `make serve MODELS=merged,awq`, or with `python -m tools.bench.serve`.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from stages.common import server
from tools.serving import endpoint, engine, keys
from tools.serving.endpoint import Endpoint

LEVELS = (1, 8, 32)


@click.command(help=__doc__)
@click.option("--prompts", default=64, show_default=True, help="Requests of a measurement.")
@click.option("--input-length", default=128, show_default=True, help="Tokens of a prompt.")
@click.option("--output-length", default=64, show_default=True, help="Tokens of an answer.")
def main(prompts: int, input_length: int, output_length: int) -> None:
    key = keys.load()["API_KEY"]
    click.echo("| model | at once | requests/s | tokens/s | first token, median | 99 % | token after that, median |")
    click.echo("|---|---|---|---|---|---|---|")
    for one in endpoint.serving().endpoints:
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
    """Run vLLM's client once, and give what it found.

    Raises:
        click.ClickException: it failed, or a request did.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(engine.command()), "bench", "serve", "--base-url", one.address.removesuffix("/v1")),
            *("--model", one.name, "--tokenizer", one.folder, "--endpoint", "/v1/completions"),
            *("--dataset-name", "random", "--ignore-eos", "--num-warmups", "4", "--seed", "7"),
            *("--extra-body", json.dumps({"return_token_ids": True})),  # else tokens without text send nothing
            *(part for name, value in lengths.items() for part in (f"--random-{name}-len", str(value))),
            *("--save-result", "--result-dir", folder, "--result-filename", "result.json", *load),
        ]
        variables = os.environ | server.SETTINGS | {"OPENAI_API_KEY": key}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"vllm bench serve failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    if found.get("failed"):
        raise click.ClickException(f"{one.name}: {found['failed']} requests failed; `make logs` says why")
    return found


if __name__ == "__main__":
    main()
