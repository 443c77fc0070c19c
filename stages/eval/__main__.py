"""Score one model on the val rows, on general texts and on tasks of lm-evaluation-harness.

Sixth stage, once per model (`eval@base`, `eval@merged`, `eval@awq`). It reads the model folder, the conversations in
data/prepared/val.jsonl, their tokens in val.arrow, data/general and data/tasks, and writes the model's scores and
answers. Run it with `dvc repro eval`, or alone with `python -m stages.eval --model models/merged --metrics FILE
--answers FILE`.
"""

import json
from pathlib import Path

import click

from stages.common import chat, files, model_folder, tokens
from stages.common.chat import ChatTokenizer
from stages.common.params import load_params
from stages.common.tokens import TokenRow
from stages.eval import transformers_backend, vllm_backend
from stages.eval.answers import fitting_share, score_loss, score_rows, summarize
from stages.eval.lm_eval_tasks import TaskScores, find_tasks, run_tasks
from stages.eval.params import EvalParams


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
    config = load_params(params, "eval", EvalParams)

    # Inputs
    model_folder.require(model, "dvc repro")
    rows, encoded = read_val(val, token_file, config.rows)
    chat_tokenizer = chat.load(model)
    texts = read_general(general, chat_tokenizer)
    prompts = chat.encode_prompts(chat_tokenizer, [chat.without_answer(row) for row in rows if "messages" in row])
    require_prompts(token_file, rows, encoded, prompts)
    tasks = find_tasks(config.tasks)

    # Work
    backend = transformers_backend if config.backend == "hf" else vllm_backend
    with backend.load(model, chat_tokenizer, config.seed) as loaded:
        losses = backend.losses(loaded, encoded, config.batch_size)
        text_losses = backend.losses(loaded, texts, config.batch_size)
        completions = backend.generate(loaded, prompts, chat_tokenizer, config.batch_size, config.max_new_tokens)
        task_scores = TaskScores({}, None)
        if config.tasks:
            wrapped = backend.lm_eval_model(loaded, model, config.batch_size)
            task_scores = run_tasks(tasks, wrapped, config.task_rows, config.task_chat_template, config.seed)

    # Outputs
    scored = score_rows(rows, encoded, losses, completions, chat_tokenizer, config.answer.pattern)
    general_scored = [score_loss(text, loss) for text, loss in zip(texts, text_losses, strict=True)]
    fitting = fitting_share(
        [tokens for row, tokens in zip(rows, encoded, strict=True) if "messages" in row], config.max_new_tokens
    )
    total = summarize(scored, general_scored, fitting) | {"tasks": task_scores.tasks, "tasks_mean": task_scores.mean}
    files.write_texts({metrics: files.dump_json(total), answers: files.dump_rows(scored)})
    click.echo(
        f"{model}: exact match {total['exact_match']}, perplexity {total['perplexity']}, general perplexity "
        f"{total['general_perplexity']}"
    )
    for task, values in task_scores.tasks.items():
        click.echo(f"  {task}: {', '.join(f'{name} {value}' for name, value in values.items())}")


def read_val(val: Path, token_file: Path, limit: int) -> tuple[list[chat.Row], list[TokenRow]]:
    """Read the first `limit` val rows and their tokens.

    Raises:
        click.ClickException: a file is missing or empty, or the two differ in their number of rows.
    """
    rows, encoded = files.read_rows(val), tokens.read(token_file, limit)
    if len(rows) != (count := tokens.table(token_file).num_rows):
        raise click.ClickException(f"{token_file}: {count} rows, {val}: {len(rows)}; run `dvc repro preprocess`")
    return rows[:limit], encoded


def require_prompts(
    token_file: Path, rows: list[chat.Row], encoded: list[TokenRow], prompts: list[list[int]]
) -> None:
    """Check that the tokens of each conversation begin with its prompt, and that the last answer follows it at once.

    So the reference is what follows the very prompt that is asked.

    Args:
        token_file: for messages.
        rows: conversations and plain texts.
        encoded: their tokens.
        prompts: of the conversations only.

    Raises:
        click.ClickException: the tokens of a row begin in another way.
    """
    asked = [place for place, row in enumerate(rows) if "messages" in row]
    for place, prompt in zip(asked, prompts, strict=True):
        ids, mask = encoded[place]
        size = len(prompt)
        if ids[:size] != prompt or mask[size - 1 : size + 1] != [0, 1] or bytes([0, 1]) in bytes(mask[size:]):
            raise click.ClickException(
                f"{token_file}: row {place + 1}: not the model's prompt and an answer after it, so no answer could "
                "be right; run `dvc repro preprocess`"
            )


def read_general(path: Path, chat_tokenizer: ChatTokenizer) -> list[TokenRow]:
    """Read the general texts, one `{"text": ...}` a line, as tokens that are all in the loss.

    They get no end token: fine-tuning changes how likely that is.

    Raises:
        click.ClickException: the file is missing or empty, or a line has no text.
    """
    if not path.exists():
        raise click.ClickException(f"{path}: no such file; run `git checkout {path}`")
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            texts += [chat_tokenizer.opening + json.loads(line)["text"]] if line else []
        except (ValueError, TypeError, LookupError):
            raise click.ClickException(
                f'{path}:{number}: not a row like {{"text": "A few words."}}; fix it'
            ) from None
    if not texts:
        raise click.ClickException(f"{path}: no rows; run `git checkout {path}`")
    encodings = chat_tokenizer.tokenizer.encode_batch(texts, add_special_tokens=False)
    return [TokenRow(encoding.ids, [1] * len(encoding.ids)) for encoding in encodings]


if __name__ == "__main__":
    main()
