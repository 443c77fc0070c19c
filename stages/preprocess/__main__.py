"""Turn the raw rows into train, val and calibration rows with their tokens, and account for every row.

Second stage: reads every file in data/raw and the tokenizer and chat template of models/base, writes data/prepared.
Run it with `dvc repro preprocess`, or alone with `python -m stages.preprocess`.
"""

import gc
import tempfile
from pathlib import Path

import click

from stages.common import chat, files
from stages.common.params import load_params
from stages.preprocess.params import PreprocessParams


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--raw", type=click.Path(path_type=Path), default="data/raw", show_default=True)
@click.option("--benchmarks", type=click.Path(path_type=Path), default="data/benchmarks", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="data/prepared", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/preprocess.json", show_default=True)
@click.option("--lengths", type=click.Path(path_type=Path), default="metrics/lengths.csv", show_default=True)
@click.option(
    "--outcomes", "outcomes_csv", type=click.Path(path_type=Path), default="metrics/outcomes.csv", show_default=True
)
def main(
    params: Path, raw: Path, benchmarks: Path, base: Path, out: Path, metrics: Path, lengths: Path, outcomes_csv: Path
) -> None:
    # Params
    config = load_params(params, "preprocess", PreprocessParams)

    from stages.preprocess.contamination import load_benchmarks
    from stages.preprocess.counts import check_losses, count_rows, describe_counts, length_table, outcome_table
    from stages.preprocess.duplicates import group_rows
    from stages.preprocess.encode import encode_rows
    from stages.preprocess.filters import check_rows
    from stages.preprocess.output import write_prepared
    from stages.preprocess.scratch import ROWS, SIGNATURES, store_rows
    from stages.preprocess.sources import find_sources
    from stages.preprocess.split import split_rows

    # Inputs
    chat_tokenizer = chat.load(base)
    sources = find_sources(raw, config)
    ngrams = load_benchmarks(benchmarks, config.decontaminate_ngram)

    with files.fresh_folder(out) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            # Work
            scratch = Path(name)
            gc.set_threshold(100_000)  # to search for reference cycles among thousands of rows takes long
            rows = check_rows(sources, chat_tokenizer, config, ngrams)
            facts = store_rows(encode_rows(rows, chat_tokenizer, config), scratch, config.seed)
            groups = group_rows(facts, scratch / SIGNATURES, config.near_duplicate_similarity)
            outcomes = split_rows(facts, groups, config)
            check_losses(raw, sources, facts, outcomes, config)

            # Outputs
            write_prepared(scratch / ROWS, facts, outcomes, [source.name for source in sources], folder)
        counts = count_rows(sources, facts, outcomes)
        plots = {lengths: length_table(facts, outcomes), outcomes_csv: outcome_table(counts)}
        files.write_texts({metrics: files.dump_json(counts)} | plots)
    click.echo(
        f"{counts['rows_read']} rows read, {counts['rows_kept']} kept: "
        f"{counts['rows_train']} train, {counts['rows_val']} val"
    )
    click.echo("".join(f"  {line}\n" for line in describe_counts(counts)), nl=False)


if __name__ == "__main__":
    main()
