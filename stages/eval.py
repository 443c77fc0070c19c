"""Score one model on the val rows: perplexity of the reference answers, exact match of its own.

Sixth stage, once per model (`eval@base`, `eval@merged`, `eval@awq`): reads the model folder, the questions in
data/prepared/val.jsonl and the tokens of their answers in val.arrow, writes its scores and its answers. Run it with
`dvc repro eval`, or alone with `python -m stages.eval --model models/merged --metrics FILE --answers FILE`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import PositiveInt

from stages.common import batches, chat, device, files, settings, tokens

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
@click.option(
    "--tokens", "token_file", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True
)
@click.option("--metrics", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.json")
@click.option("--answers", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.answers.jsonl")
def main(params: Path, model: Path, val: Path, token_file: Path, metrics: Path, answers: Path) -> None:
    # Params
    config = settings.load(params, "eval", EvalParams)

    # Inputs
    files.require(model, "dvc repro")
    rows, encoded = files.read_rows(val), tokens.read(token_file, config.rows)
    if len(rows) != (found := tokens.table(token_file).num_rows):
        raise click.ClickException(
            f"{token_file}: {found} rows, {val}: {len(rows)}; run `dvc repro preprocess` to make both anew"
        )
    rows = rows[: config.rows]
    speaker = chat.load(model)

    import transformers

    place = device.choose()
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=place.dtype).to(place.name).eval()

    # Work
    loss, count = answer_loss(network, encoded, config)
    asked = [(row, learnt) for row, learnt in zip(rows, encoded, strict=True) if "messages" in row]
    questions = [row | {"messages": row["messages"][:-1]} for row, _ in asked]
    given, stopped = greedy_answers(network, questions, speaker, config)
    wanted = [last_answer(learnt, speaker) for _, learnt in asked]
    matches = [answer.strip() == reference for answer, reference in zip(given, wanted, strict=True)]

    # Outputs
    scores = {
        "rows": len(rows),
        "rows_answered": len(asked),
        "answer_tokens": count,
        "exact_match": share(matches),
        "loss": round(loss, 6),
        "perplexity": round(math.exp(loss), 6),
        "stop_rate": share(stopped),
    }
    samples = [
        {"question": question["messages"], "reference": reference, "answer": answer, "match": match}
        for question, reference, answer, match in zip(questions, wanted, given, matches, strict=True)
    ]
    files.write_texts({metrics: files.dump_json(scores), answers: files.dump_rows(samples[: config.sample_answers])})
    click.echo(f"{model}: exact match {scores['exact_match']}, perplexity {scores['perplexity']}")


def answer_loss(network: "PreTrainedModel", rows: list[tokens.TokenRow], config: EvalParams) -> tuple[float, int]:
    """Give the mean negative log-likelihood in nats per answer token, and the number of such tokens."""
    import torch

    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches.padded(rows, config.batch_size):
            logits = batches.answer_logits(network, batch)
            target = batches.answer_tokens(batch).to(logits.device)
            total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
            count += len(target)
    return total / count, count


def greedy_answers(
    network: "PreTrainedModel", questions: list[chat.Row], speaker: chat.Chat, config: EvalParams
) -> tuple[list[str], list[bool]]:
    """Let the model answer each question greedily.

    Args:
        network: the model.
        questions: rows whose messages end before the answer.
        speaker: the model's chat side.
        config: how many rows at once, and how long an answer may be.

    Returns:
        The answers without special tokens, and whether each ended by itself, both in the order of `questions`.
    """
    import torch
    from tqdm import tqdm

    ids = chat.encode_prompts(speaker, questions)
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
        for index, said in zip(group, output[:, width:].tolist(), strict=True):
            ends = [place for place, token in enumerate(said) if token in speaker.stop_ids]
            stopped[index] = bool(ends)
            answers[index] = speaker.tokenizer.decode(said[: ends[0]] if ends else said)
    return answers, stopped


def last_answer(row: tokens.TokenRow, speaker: chat.Chat) -> str:
    """Give the last answer that a row teaches as the model would say it: text, or the template's form of tool calls.

    A template that writes more into an answer than the row holds, such as an empty thought, is followed so, too.
    """
    end = len(row.mask) - row.mask[::-1].index(1)
    start = end - [*row.mask[:end][::-1], 0].index(0)
    taught = row.ids[start:end]
    while taught and (taught[-1] in speaker.stop_ids or not speaker.tokenizer.decode(taught[-1:]).strip()):
        taught.pop()  # TRL's templates teach a newline after the stop token
    return speaker.tokenizer.decode(taught).strip()


def share(flags: list[bool]) -> float | None:
    """Give the share of true values; of none there is no share."""
    return round(sum(flags) / len(flags), 6) if flags else None


if __name__ == "__main__":
    main()
