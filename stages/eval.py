"""Score one model on the val rows: perplexity of the reference answers, exact match of its own.

Sixth stage, once per model (`eval@base`, `eval@merged`, `eval@awq`): reads the model folder and
data/prepared/val.jsonl, writes its scores and its answers. Run it with `dvc repro eval`, or alone with
`python -m stages.eval --model models/merged --metrics FILE --answers FILE`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import PositiveInt

from stages.common import batches, chat, device, files, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EvalParams(settings.Section):
    """params.yaml: eval."""

    rows: PositiveInt
    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    sample_answers: PositiveInt


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="models/base, merged or awq.")
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.jsonl", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.json")
@click.option("--answers", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.answers.jsonl")
def main(params: Path, model: Path, val: Path, metrics: Path, answers: Path) -> None:
    # Params
    config = settings.load(params, "eval", EvalParams)

    # Inputs
    files.require(model, "dvc repro")
    rows = [row["messages"] for row in files.read_rows(val)[: config.rows]]
    speaker = chat.load(model)

    import transformers

    place = device.choose()
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=place.dtype).to(place.name).eval()

    # Work
    loss, tokens = answer_loss(network, chat.encode(speaker, rows), speaker, config)
    given, stopped = greedy_answers(network, [row[:-1] for row in rows], speaker, config)
    wanted = [row[-1]["content"] for row in rows]
    matches = [answer.strip() == reference.strip() for answer, reference in zip(given, wanted, strict=True)]

    # Outputs
    scores = {
        "rows": len(rows),
        "answer_tokens": tokens,
        "exact_match": round(sum(matches) / len(rows), 6),
        "loss": round(loss, 6),
        "perplexity": round(math.exp(loss), 6),
        "stop_rate": round(sum(stopped) / len(rows), 6),
    }
    samples = [
        {"question": row[:-1], "reference": reference, "answer": answer, "match": match}
        for row, reference, answer, match in zip(rows, wanted, given, matches, strict=True)
    ]
    files.write_texts({metrics: files.dump_json(scores), answers: files.dump_rows(samples[: config.sample_answers])})
    click.echo(f"{model}: exact match {scores['exact_match']}, perplexity {scores['perplexity']}")


def answer_loss(
    network: "PreTrainedModel", rows: list[chat.Encoded], speaker: chat.Chat, config: EvalParams
) -> tuple[float, int]:
    """Give the mean negative log-likelihood in nats per answer token, and the number of such tokens."""
    import torch

    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches.padded(rows, config.batch_size, speaker.pad_id):
            logits = batches.answer_logits(network, batch)
            target = batches.answer_tokens(batch).to(logits.device)
            total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
            count += len(target)
    return total / count, count


def greedy_answers(
    network: "PreTrainedModel", prompts: list[chat.Messages], speaker: chat.Chat, config: EvalParams
) -> tuple[list[str], list[bool]]:
    """Let the model answer each prompt greedily.

    Returns:
        The answers without special tokens, and whether each ended by itself, both in the order of `prompts`.
    """
    import torch
    from tqdm import tqdm

    ids = chat.encode_prompts(speaker, prompts)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    answers, stopped = [""] * len(ids), [False] * len(ids)
    for start in tqdm(range(0, len(order), config.batch_size), desc="answers", unit="batch"):
        group = order[start : start + config.batch_size]
        width = max(len(ids[index]) for index in group)
        gaps = [width - len(ids[index]) for index in group]
        with torch.inference_mode():
            output = network.generate(
                input_ids=torch.tensor(
                    [[speaker.pad_id] * gap + ids[index] for index, gap in zip(group, gaps, strict=True)]
                ).to(network.device),
                attention_mask=torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]).to(network.device),
                max_new_tokens=config.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(speaker.stop_ids),
                pad_token_id=speaker.pad_id,
            )
        for index, tokens in zip(group, output[:, width:].tolist(), strict=True):
            ends = [place for place, token in enumerate(tokens) if token in speaker.stop_ids]
            stopped[index] = bool(ends)
            answers[index] = speaker.tokenizer.decode(tokens[: ends[0]] if ends else tokens)
    return answers, stopped


if __name__ == "__main__":
    main()
