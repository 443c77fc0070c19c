"""Measure how many rows per second eval and merge score in batches, compared with one answer after the other.

It takes the merged model and the val rows of this checkout, and the batch sizes of params.yaml. The time to load the
model does not count. Run it with `make bench`, or with `docker/run --no-log python -m tools.bench.eval`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import agreement, chat, files, tokens
from stages.common.params import load_params
from stages.eval import transformers_backend
from stages.eval.params import EvalParams
from stages.merge.params import MergeParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELS, PREPARED = Path("models"), Path("data/prepared")


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="Each figure is the median of so many rounds.")
def main(rounds: int) -> None:
    from stages.common import device

    config = load_params(Path("params.yaml"), "eval", EvalParams)
    merge = load_params(Path("params.yaml"), "merge", MergeParams)
    files.require(MODELS / "merged", "dvc repro")
    chat_tokenizer = chat.load(MODELS / "merged")
    rows = files.read_rows(PREPARED / "val.jsonl")[: config.rows]
    encoded = tokens.read(PREPARED / "val.arrow", config.rows)
    prompts = chat.encode_prompts(chat_tokenizer, [chat.without_answer(row) for row in rows if "messages" in row])
    reference = agreement.load(MODELS / "base", device.choose(), MODELS / "adapter")
    loading = transformers_backend.load(MODELS / "merged", chat_tokenizer, config.seed)
    with loading as model, tempfile.TemporaryDirectory() as name:

        def score() -> int:
            transformers_backend.losses(model, encoded, config.batch_size)
            transformers_backend.generate(model, prompts, chat_tokenizer, config.batch_size, config.max_new_tokens)
            return len(prompts)

        def compare() -> int:
            compared = encoded[: merge.rows]
            agreement.compare(lambda: reference, {"merged": lambda: model}, compared, merge.batch_size, Path(name))
            return len(compared)

        def one_by_one() -> int:
            return generate_singly(model, prompts, config.max_new_tokens)

        works = (score, compare, one_by_one)
        speeds = [[rows_per_second(work) for work in works] for _ in range(rounds + 1)][
            1:
        ]  # the first round warms up
    for place, label in enumerate(("eval: loss and answer", "merge: KL", "one answer after the other")):
        click.echo(f"{label:26}  {statistics.median(speed[place] for speed in speeds):7.1f} rows/s")
    for place, label in enumerate(("eval", "KL")):
        ratio = statistics.median(speed[place] / speed[-1] for speed in speeds)
        click.echo(f"{label} / one after the other: {ratio:.1f} (at least 2)")


def rows_per_second(work: Callable[[], int]) -> float:
    """Time `work`, which returns its number of rows."""
    start = time.monotonic()
    return work() / (time.monotonic() - start)


def generate_singly(model: "PreTrainedModel", prompts: list[list[int]], max_new_tokens: int) -> int:
    """Continue each prompt greedily, in a batch of its own, and return the number of prompts."""
    import torch

    for prompt in prompts:
        with torch.inference_mode():
            model.generate(input_ids=torch.tensor([prompt]).to(model.device), max_new_tokens=max_new_tokens)
    return len(prompts)


if __name__ == "__main__":
    main()
