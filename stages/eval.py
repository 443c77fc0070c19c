"""Score one model: on the val rows, on texts outside the task, and on tasks of lm-evaluation-harness.

Sixth stage, once per model (`eval@base`, `eval@merged`, `eval@awq`): reads the model folder, the questions in
data/prepared/val.jsonl, the tokens of their answers in val.arrow, data/general and data/tasks, and writes its scores
and its answers. Run it with `dvc repro eval`, or alone with `python -m stages.eval --model models/merged --metrics
FILE --answers FILE`.
"""

from pathlib import Path
from typing import Literal

import click
from pydantic import NonNegativeInt, PositiveInt

from stages.common import answers as speech
from stages.common import chat, files, folders, harness, hf, scores, settings, tokens, vllm


class EvalParams(settings.Section):
    """params.yaml: eval."""

    seed: NonNegativeInt
    backend: Literal["hf", "vllm"]
    rows: PositiveInt
    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    tasks: list[str]
    task_rows: PositiveInt | None
    task_chat_template: bool


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="models/base, merged or awq.")
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.jsonl", show_default=True)
@click.option(
    "--tokens", "token_file", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True
)
@click.option("--general", type=click.Path(path_type=Path), default="data/general/passages.jsonl", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.json")
@click.option("--answers", type=click.Path(path_type=Path), required=True, help="metrics/eval/NAME.answers.jsonl")
def main(params: Path, model: Path, val: Path, token_file: Path, general: Path, metrics: Path, answers: Path) -> None:
    # Params
    config = settings.load(params, "eval", EvalParams)

    # Inputs
    folders.require(model, "dvc repro")
    rows, encoded = read_val(val, token_file, config.rows)
    speaker = chat.load(model)
    passages = speech.passages(general, speaker)
    prompts = chat.encode_prompts(speaker, [speech.question(row) for row in rows if "messages" in row])
    tasks = harness.find(config.tasks)

    # Work
    engine = hf if config.backend == "hf" else vllm
    with engine.load(model, speaker, config.seed) as network:
        losses = engine.losses(network, encoded, config.batch_size)
        passage_losses = engine.losses(network, passages, config.batch_size)
        said = engine.answers(network, prompts, speaker, config.batch_size, config.max_new_tokens)
        found = harness.Scores({}, None)
        if config.tasks:
            judged = engine.harness(network, model, config.batch_size)
            found = harness.run(tasks, judged, config.task_rows, config.task_chat_template, config.seed)

    # Outputs
    scored = speech.score(rows, encoded, losses, said, speaker)
    outside = [speech.weigh(row, loss) for row, loss in zip(passages, passage_losses, strict=True)]
    total = scores.summary(scored, outside) | {"tasks": found.tasks, "tasks_mean": found.mean}
    files.write_texts({metrics: files.dump_json(total), answers: files.dump_rows(scored)})
    click.echo(
        f"{model}: exact match {total['exact_match']}, perplexity {total['perplexity']}, outside the task "
        f"{total['general_perplexity']}"
    )
    for task, values in found.tasks.items():
        click.echo(f"  {task}: {', '.join(f'{name} {value}' for name, value in values.items())}")


def read_val(val: Path, token_file: Path, limit: int) -> tuple[list[chat.Row], list[tokens.TokenRow]]:
    """Read the first rows of val as text and as tokens.

    Raises:
        click.ClickException: a file that is missing or empty, or two that do not belong together.
    """
    rows, encoded = files.read_rows(val), tokens.read(token_file, limit)
    if len(rows) != (found := tokens.table(token_file).num_rows):
        raise click.ClickException(
            f"{token_file}: {found} rows, {val}: {len(rows)}; run `dvc repro preprocess` to make both anew"
        )
    return rows[:limit], encoded


if __name__ == "__main__":
    main()
