"""Time eval's scores and merge's KL against one answer after the other, the way a first script would ask.

All three on the merged model and the val rows of this checkout, with the params' batch sizes, in rounds, loading left
out. Run it with `make bench`, or with `docker/run --no-log python -m tools.bench.eval`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import answers, chat, files, hf, settings, tokens
from stages.eval import EvalParams
from stages.merge import MergeParams, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELS, PREPARED = Path("models"), Path("data/prepared")


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="The medians are shown, of ratios those of each round.")
def main(rounds: int) -> None:
    from stages.common import agreement, device

    config = settings.load(Path("params.yaml"), "eval", EvalParams)
    merge = settings.load(Path("params.yaml"), "merge", MergeParams)
    files.require(MODELS / "merged", "dvc repro")
    speaker = chat.load(MODELS / "merged")
    rows, encoded = files.read_rows(PREPARED / "val.jsonl"), tokens.read(PREPARED / "val.arrow", config.rows)
    asked = [answers.question(row) for row in rows[: config.rows] if "messages" in row]
    prompts = chat.encode_prompts(speaker, asked)
    reference = load(MODELS / "base", device.choose(), MODELS / "adapter")
    with hf.load(MODELS / "merged", speaker, config.seed) as network, tempfile.TemporaryDirectory() as name:

        def score() -> int:
            hf.losses(network, encoded, config.batch_size)
            hf.answers(network, prompts, speaker, config.batch_size, config.max_new_tokens)
            return len(prompts)

        def compare() -> int:
            compared = encoded[: merge.rows]
            agreement.compare(lambda: reference, lambda: network, compared, merge.batch_size, Path(name))
            return len(compared)

        def ask() -> int:
            return one_by_one(network, prompts, config.max_new_tokens)

        found = [[pace(way) for way in (score, compare, ask)] for _ in range(rounds + 1)][1:]  # the first warms up
    for place, label in enumerate(("eval: loss and answer", "merge: KL", "one answer after the other")):
        click.echo(f"{label:26}  {statistics.median(paces[place] for paces in found):7.1f} rows/s")
    for place, label in enumerate(("eval", "KL")):
        ratio = statistics.median(paces[place] / paces[-1] for paces in found)
        click.echo(f"{label} / one after the other: {ratio:.1f} (at least 2)")


def pace(work: Callable[[], int]) -> float:
    """Give the rows per second of work that says how many it did."""
    start = time.monotonic()
    return work() / (time.monotonic() - start)


def one_by_one(network: "PreTrainedModel", prompts: list[list[int]], max_new_tokens: int) -> int:
    """Continue each prompt greedily, alone."""
    import torch

    for prompt in prompts:
        with torch.inference_mode():
            network.generate(input_ids=torch.tensor([prompt]).to(network.device), max_new_tokens=max_new_tokens)
    return len(prompts)


if __name__ == "__main__":
    main()
