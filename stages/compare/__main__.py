"""Compare the models' answers row by row: rows won and lost, differences with intervals, and a page to read.

Seventh stage: reads the scores and answers in metrics/eval, and writes metrics/compare.json, the answers side by side
in metrics/eval/answers.jsonl, and answers.html, which opens in any browser without a network. Run it with `dvc repro
compare`, or alone with `python -m stages.compare`.
"""

from pathlib import Path
from typing import Any

import click

from stages.common import files
from stages.common.params import load_params
from stages.common.scores import MODELS, AnswerRow
from stages.compare.page import render_page
from stages.compare.params import CompareParams
from stages.compare.significance import Bootstrap, compare_pair

ROW_KEYS = ("question", "tools", "text", "reference")  # what every model's answer to a row has in common


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--scores", type=click.Path(path_type=Path), default="metrics/eval", show_default=True)
@click.option("--merge", type=click.Path(path_type=Path), default="metrics/merge.json", show_default=True)
@click.option("--awq", type=click.Path(path_type=Path), default="metrics/awq.json", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/compare.json", show_default=True)
@click.option("--answers", type=click.Path(path_type=Path), default="metrics/eval/answers.jsonl", show_default=True)
@click.option(
    "--page", "html", type=click.Path(path_type=Path), default="metrics/eval/answers.html", show_default=True
)
def main(params: Path, scores: Path, merge: Path, awq: Path, metrics: Path, answers: Path, html: Path) -> None:
    # Params
    config = load_params(params, "compare", CompareParams)

    # Inputs
    totals = {model: files.read_json(scores / f"{model}.json") for model in MODELS}
    found = {"merged": files.read_json(merge, "kept"), "awq": files.read_json(awq, "kept")}
    kept = {"base": 0.0} | {model: figures["kept"] for model, figures in found.items()}
    rows = side_by_side(scores, {model: files.read_rows(scores / f"{model}.answers.jsonl") for model in MODELS})

    # Work
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    compared = {
        f"{one}_{other}": compare_pair(
            [row[one] for row in rows], [row[other] for row in rows], config.score, bootstrap
        )
        for one, other in (("merged", "base"), ("awq", "merged"), ("awq", "base"))
    }

    # Outputs
    shown = {model: scores | {"fine_tuning_kept": kept[model]} for model, scores in totals.items()}
    page = render_page(rows, shown, compared, config.score, config.confidence)
    files.write_texts({metrics: files.dump_json(compared), answers: files.dump_rows(rows), html: page})
    for name, pair in compared.items():
        click.echo(f"{name}: {pair['won']} rows won, {pair['lost']} lost of {pair['rows']}, p {pair['mcnemar_p']}")


def side_by_side(folder: Path, answers: dict[str, list[AnswerRow]]) -> list[dict[str, Any]]:
    """Join the models' answers row by row.

    Args:
        folder: of the answers, for messages.
        answers: for each model the rows of metrics/eval/MODEL.answers.jsonl.

    Returns:
        Rows with `question` and `reference`, or with `text`, and for each model the rest of its row under its name.

    Raises:
        click.ClickException: the models answered different rows.
    """
    shared = {
        model: [{key: row[key] for key in ROW_KEYS if key in row} for row in rows] for model, rows in answers.items()
    }
    for model in MODELS:
        if shared[model] != shared[MODELS[0]]:
            file = folder / f"{model}.answers.jsonl"
            raise click.ClickException(
                f"{file}: not the same rows as {MODELS[0]}.answers.jsonl; run `dvc repro eval`"
            )
    return [
        row
        | {
            model: {key: value for key, value in answers[model][place].items() if key not in ROW_KEYS}
            for model in MODELS
        }
        for place, row in enumerate(shared[MODELS[0]])
    ]


if __name__ == "__main__":
    main()
