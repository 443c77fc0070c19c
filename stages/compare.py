"""Compare the models' answers row by row: rows won and lost, differences with intervals, a page to read.

Seventh stage: reads the scores and answers in metrics/eval, writes metrics/compare.json, the answers side by side in
metrics/eval/answers.jsonl, and answers.html, which any browser opens without a network. Run it with `dvc repro
compare`, or alone with `python -m stages.compare`.
"""

from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field, NonNegativeInt, PositiveInt

from stages.common import files, page, pairs, settings

MODELS = ("base", "merged", "awq")
SHARED = ("question", "tools", "text", "reference")  # what a row of answers takes from val
Row = dict[str, Any]


class CompareParams(settings.Section):
    """params.yaml: compare."""

    score: Literal["exact_match", "normalized_exact_match", "rouge_l", "chrf"]
    resamples: PositiveInt
    confidence: float = Field(gt=0, lt=1)
    seed: NonNegativeInt


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--scores", type=click.Path(path_type=Path), default="metrics/eval", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/compare.json", show_default=True)
@click.option("--answers", type=click.Path(path_type=Path), default="metrics/eval/answers.jsonl", show_default=True)
@click.option(
    "--page", "html", type=click.Path(path_type=Path), default="metrics/eval/answers.html", show_default=True
)
def main(params: Path, scores: Path, metrics: Path, answers: Path, html: Path) -> None:
    # Params
    config = settings.load(params, "compare", CompareParams)

    # Inputs
    totals = {model: files.read_json(scores / f"{model}.json") for model in MODELS}
    rows = side_by_side(scores, {model: files.read_rows(scores / f"{model}.answers.jsonl") for model in MODELS})

    # Work
    draws = pairs.Draws(config.resamples, config.confidence, config.seed)
    compared = {
        f"{one}_{other}": pairs.compare([row[one] for row in rows], [row[other] for row in rows], config.score, draws)
        for one, other in (("merged", "base"), ("awq", "merged"))
    }

    # Outputs
    text = page.render(rows, totals, compared, config.score, config.confidence)
    files.write_texts({metrics: files.dump_json(compared), answers: files.dump_rows(rows), html: text})
    for name, found in compared.items():
        click.echo(
            f"{name}: {found['won']} rows won, {found['lost']} lost of {found['rows']}, p {found['mcnemar_p']}"
        )


def side_by_side(folder: Path, found: dict[str, list[Row]]) -> list[Row]:
    """Put what the models said to each row side by side.

    Args:
        folder: where their answers are, for messages.
        found: each model's rows of metrics/eval/MODEL.answers.jsonl.

    Returns:
        Rows with `question` and `reference`, or with `text`, and under each model's name what it said and scored.

    Raises:
        click.ClickException: the models were not asked the same.
    """
    asked = {
        model: [{key: row[key] for key in SHARED if key in row} for row in rows] for model, rows in found.items()
    }
    for model in MODELS:
        if asked[model] != asked[MODELS[0]]:
            file = folder / f"{model}.answers.jsonl"
            raise click.ClickException(f"{file}: not the rows that {MODELS[0]} was asked; run `dvc repro eval`")
    return [
        row
        | {model: {key: value for key, value in found[model][place].items() if key not in SHARED} for model in MODELS}
        for place, row in enumerate(asked[MODELS[0]])
    ]


if __name__ == "__main__":
    main()
