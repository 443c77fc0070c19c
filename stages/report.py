"""Judge the run: a verdict per gate, and the hashes of the models and of what they were made of.

Last stage: reads the metrics and hashes every artefact. It exits 0 whatever the verdict, so that a run which fails
a gate is kept and can be looked at; `make gate` reads the verdict and exits 1. Run it with `dvc repro report`, or
alone with `python -m stages.report`.
"""

from pathlib import Path
from typing import Any

import click

from stages.common import files, fingerprints, folders, settings
from stages.common.limits import GatesParams, judge

METRICS = ("preprocess", "train", "merge", "awq", "eval/base", "eval/merged", "eval/awq")
FOLDERS = ("base", "adapter", "merged", "awq")


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--raw", "raw_folder", type=click.Path(path_type=Path), default="data/raw", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default="models", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics", show_default=True)
@click.option("--lock", type=click.Path(path_type=Path), default="requirements/pipeline.txt", show_default=True)
@click.option("--gates", type=click.Path(path_type=Path), default="metrics/gates.json", show_default=True)
@click.option("--lineage", type=click.Path(path_type=Path), default="metrics/lineage.json", show_default=True)
def main(params: Path, raw_folder: Path, models: Path, metrics: Path, lock: Path, gates: Path, lineage: Path) -> None:
    # Params
    limits = settings.load(params, "gates", GatesParams)

    # Inputs
    measured = {name: files.read_json(metrics / f"{name}.json") for name in METRICS}
    files.require(lock, "dvc repro")
    for name in FOLDERS:
        folders.require(models / name, "dvc repro")

    # Work
    try:
        verdicts = judge(measured, limits)
    except KeyError as error:
        message = f"{metrics}: no `{error.args[0]}` where the report stage looks for it; run `dvc repro` first"
        raise click.ClickException(message) from None
    made_of = trace(raw_folder, models, lock, measured["preprocess"])

    # Outputs
    files.write_texts({gates: files.dump_json(verdicts), lineage: files.dump_json(made_of)})
    failed = [name for name, verdict in verdicts.items() if not verdict["passed"]]
    click.echo(f"{len(verdicts) - len(failed)} of {len(verdicts)} gates passed")
    for name in failed:
        click.echo(f"  failed: {name}; `make gate` says what to look at")


def trace(raw_folder: Path, models: Path, lock: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Name every byte that the models came from, and every file of theirs.

    The files are a list, as `dvc metrics show` and `dvc exp show` would make a column of every hash in a dictionary.
    """
    manifest, config = (files.read_json(models / "base" / name) for name in ("manifest.json", "config.json"))
    read = [fingerprints.facts(raw_folder / name) for name in sorted(data["files"])]
    made = [facts for name in FOLDERS for facts in fingerprints.below(models / name)]
    return {
        "base": {
            "id": manifest["id"],
            "revision": manifest["revision"],
            "architecture": config.get("architectures", ["unknown"])[0],
        },
        "files": [*read, fingerprints.facts(lock), *made],
        "rows": {key.removeprefix("rows_"): data[key] for key in sorted(data) if key.startswith("rows_")},
    }


if __name__ == "__main__":
    main()
