"""Turn the raw rows into train, val and calibration rows with their tokens, and account for every row.

Second stage: reads every file in data/raw and the chat side of models/base, writes data/prepared. Run it with
`dvc repro preprocess`, or alone with `python -m stages.preprocess`.
"""

import gc
import tempfile
from pathlib import Path

import click

from stages.common import chat, files, settings
from stages.common.checks import PreprocessParams


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--raw", "raw_folder", type=click.Path(path_type=Path), default="data/raw", show_default=True)
@click.option("--benchmarks", type=click.Path(path_type=Path), default="data/benchmarks", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="data/prepared", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/preprocess.json", show_default=True)
@click.option("--lengths", type=click.Path(path_type=Path), default="metrics/lengths.csv", show_default=True)
@click.option("--fates", type=click.Path(path_type=Path), default="metrics/fates.csv", show_default=True)
def main(
    params: Path, raw_folder: Path, benchmarks: Path, base: Path, out: Path, metrics: Path, lengths: Path, fates: Path
) -> None:
    # Params
    config = settings.load(params, "preprocess", PreprocessParams)

    from stages.common import accounts, intake, ledger, passages, prepared

    # Inputs
    speaker = chat.load(base)
    sources = intake.sources(raw_folder, config)
    forbidden = passages.load(benchmarks, config.decontaminate_ngram)

    with files.fresh_folder(out) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            # Work
            gc.set_threshold(100_000)  # rows come by the thousand, and looking for cycles among them takes a while
            rows = intake.batches(sources, speaker, config, forbidden)
            facts = ledger.gather(rows, Path(scratch), config.seed)
            fate = ledger.settle(facts, Path(scratch), config)
            accounts.refuse_losses(raw_folder, sources, facts, fate, config)

            # Outputs
            prepared.write(Path(scratch) / ledger.ROWS, facts, fate, [source.path.name for source in sources], folder)
        counts = accounts.count(sources, facts, fate)
        plots = {lengths: accounts.histogram(facts, fate), fates: accounts.fates_table(counts)}
        files.write_texts({metrics: files.dump_json(counts)} | plots)
    click.echo(
        f"{counts['rows_read']} rows read, {counts['rows_kept']} kept: "
        f"{counts['rows_train']} train, {counts['rows_val']} val"
    )
    for reason, number in counts["rows_dropped"].items():
        click.echo(f"  dropped, {reason}: {number} (such as {counts['examples'][reason][0]})")
    for kind, number in counts["findings"].items():
        click.echo(f"  seen, {kind}: {number} (such as {counts['examples'][kind][0]})")


if __name__ == "__main__":
    main()
