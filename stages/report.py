"""Judge the run: a verdict per gate, the lineage of every artefact, and a model card made from both.

Last stage: reads every metric and hashes every artefact. It exits 0 whatever the verdict, so that a run which fails
a gate is kept and can be looked at; `make gate` reads the verdict and exits 1. Run it with `dvc repro report`, or
alone with `python -m stages.report`.
"""

import json
from pathlib import Path
from typing import Any

import click
from pydantic import model_validator

from stages.common import checks, files, settings

MODELS = ("base", "merged", "awq")
FOLDERS = ("base", "adapter", "merged", "awq")


class Limit(settings.Section):
    """A gate's limit: the least or the greatest value that passes."""

    min: float | int | None = None
    max: float | int | None = None

    @model_validator(mode="after")
    def one_side(self) -> "Limit":
        """Refuse a limit with two sides or none."""
        if (self.min is None) == (self.max is None):
            raise ValueError("needs either min or max")
        return self


class GatesParams(settings.Section):
    """params.yaml: gates. `measure` says what each name means."""

    rows_dropped_share: Limit
    rows_without_supervised_stop: Limit
    merge_kl_mean: Limit
    merge_top1_agreement: Limit
    merged_exact_match_gain: Limit
    merged_perplexity_ratio: Limit
    merged_stop_rate: Limit
    awq_exact_match_drop: Limit
    awq_perplexity_ratio: Limit
    awq_size_ratio: Limit


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--raw", "raw_folder", type=click.Path(path_type=Path), default="data/raw", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default="models", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics", show_default=True)
@click.option("--lock", type=click.Path(path_type=Path), default="requirements/pipeline.txt", show_default=True)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
@click.option("--lineage", type=click.Path(path_type=Path), default="metrics/lineage.json", show_default=True)
@click.option("--card", type=click.Path(path_type=Path), default="models/card.md", show_default=True)
def main(
    params: Path, raw_folder: Path, models: Path, metrics: Path, lock: Path, gates: Path, lineage: Path, card: Path
) -> None:
    # Params
    limits = settings.load(params, "gates", GatesParams)

    # Inputs
    scores = {name: read_json(metrics / f"{name}.json") for name in ("preprocess", "train", "merge", "awq")}
    scores |= {name: read_json(metrics / "eval" / f"{name}.json") for name in MODELS if name != "awq"}
    scores["awq_scores"] = read_json(metrics / "eval" / "awq.json")
    manifest = read_json(models / "base" / "manifest.json")
    for path in (lock, *(models / name for name in FOLDERS)):
        files.require(path, "dvc repro")

    # Work
    try:
        values = measure(scores)
    except KeyError as error:
        message = f"{metrics}: no `{error.args[0]}` where the report stage looks for it; run `dvc repro` first"
        raise click.ClickException(message) from None
    verdicts = {name: judge(value, getattr(limits, name)) for name, value in values.items()}
    origin = trace(manifest, raw_folder, models, lock, scores["preprocess"])

    # Outputs
    files.write_texts(
        {
            gates: files.dump_json(verdicts),
            lineage: files.dump_json(origin),
            card: write_card(verdicts, origin, scores),
        }
    )
    failed = [name for name, verdict in verdicts.items() if not verdict["passed"]]
    click.echo(f"{len(verdicts) - len(failed)} of {len(verdicts)} gates passed")
    for name in failed:
        click.echo(f"  failed: {name}; `make gate` shows the figures")


def read_json(path: Path) -> dict[str, Any]:
    """Read what an earlier stage measured."""
    files.require(path, "dvc repro")
    return json.loads(path.read_text(encoding="utf-8"))


def measure(scores: dict[str, Any]) -> dict[str, float | None]:
    """Compute the value of every gate from the metrics; None where val has no question to answer."""
    data, merge, awq = scores["preprocess"], scores["merge"], scores["awq"]
    base, merged, quantized = scores["base"], scores["merged"], scores["awq_scores"]
    lost = sum(count for reason, count in data["rows_dropped"].items() if reason not in checks.WANTED)
    return {
        "rows_dropped_share": round(lost / data["rows_read"], 6),
        "rows_without_supervised_stop": data["rows_without_supervised_stop"],
        "merge_kl_mean": merge["kl_mean"],
        "merge_top1_agreement": merge["top1_agreement"],
        "merged_exact_match_gain": difference(merged["exact_match"], base["exact_match"]),
        "merged_perplexity_ratio": round(merged["perplexity"] / base["perplexity"], 6),
        "merged_stop_rate": merged["stop_rate"],
        "awq_exact_match_drop": difference(merged["exact_match"], quantized["exact_match"]),
        "awq_perplexity_ratio": round(quantized["perplexity"] / merged["perplexity"], 6),
        "awq_size_ratio": awq["size_ratio"],
    }


def difference(one: float | None, other: float | None) -> float | None:
    """Subtract scores, where both were measured."""
    return None if one is None or other is None else round(one - other, 6)


def judge(value: float | None, limit: Limit) -> dict[str, Any]:
    """Give the verdict on one value; what cannot be measured on these rows passes, and stays visible as null."""
    bound, number = ("min", limit.min) if limit.min is not None else ("max", limit.max)
    assert number is not None, "a Limit has one side"
    passed = value is None or (value >= number if bound == "min" else value <= number)
    return {"value": value, "limit": number, "bound": bound, "passed": passed}


def trace(
    manifest: dict[str, Any], raw_folder: Path, models: Path, lock: Path, data: dict[str, Any]
) -> dict[str, Any]:
    """Name every byte that the served model came from; a folder's hash is `stages.common.files.digest`."""
    return {
        "base": {"id": manifest["id"], "revision": manifest["revision"]},
        "data": {name: files.sha256(raw_folder / name) for name in sorted(data["files"])},
        "environment": {lock.name: files.sha256(lock)},
        "models": {name: files.digest(models / name) for name in FOLDERS},
        "rows": {key.removeprefix("rows_"): data[key] for key in sorted(data) if key.startswith("rows_")},
    }


def shown(score: float | None) -> str:
    """Give a score as text, a dash where no val row has a question."""
    return "-" if score is None else str(score)


def write_card(verdicts: dict[str, Any], origin: dict[str, Any], scores: dict[str, Any]) -> str:
    """Write the model card; it holds no figure of its own."""
    rows = origin["rows"]
    gate_lines = [
        f"| {name} | {shown(verdict['value'])} | {verdict['bound']} {verdict['limit']} | "
        f"{'passed' if verdict['passed'] else '**failed**'} |"
        for name, verdict in verdicts.items()
    ]
    score_lines = [
        f"| {name} | {shown(score['exact_match'])} | {score['perplexity']} | {shown(score['stop_rate'])} |"
        for name, score in zip(MODELS, (scores["base"], scores["merged"], scores["awq_scores"]), strict=True)
    ]
    data_lines = [f"- `{name}`: sha256 `{value}`" for name, value in origin["data"].items()]
    return "\n".join(
        [
            "# Model card",
            "",
            f"A fine-tune of `{origin['base']['id']}` at `{origin['base']['revision']}`, merged and quantised "
            "with AWQ. Written by the report stage from the metrics of the run.",
            "",
            "## Data",
            "",
            *data_lines,
            "",
            f"{rows['read']} rows read, {rows['kept']} kept: {rows['train']} to train on, {rows['val']} to score on.",
            "",
            "## Scores on the val rows",
            "",
            "| model | exact match | perplexity | stop rate |",
            "|---|---|---|---|",
            *score_lines,
            "",
            "## Gates",
            "",
            "| gate | value | limit | verdict |",
            "|---|---|---|---|",
            *gate_lines,
            "",
            "## Limits of use",
            "",
            "Scored on rows like its training rows only: nothing is known of how it answers anything else.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
