"""Judge the run: one verdict per gate, and the hashes of the models, their data and their environment.

Last stage: reads the metrics, hashes every model folder, and writes metrics/gates.json and metrics/lineage.json. It
exits 0 whatever the verdicts, so that DVC keeps a run that fails a gate; `make gate` reads the verdicts and exits 1.
Run it with `dvc repro report`, or alone with `python -m stages.report`.
"""

from pathlib import Path
from typing import Any

import click

from stages.common import files, model_folder
from stages.common.params import load_params
from stages.report import fingerprints
from stages.report.figures import METRICS
from stages.report.fingerprints import FOLDERS
from stages.report.params import GatesParams
from stages.report.verdicts import judge


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
    limits = load_params(params, "gates", GatesParams)

    # Inputs
    measured = {name: files.read_json(metrics / f"{name}.json") for name in METRICS}
    files.require(lock, "dvc repro")
    for name in FOLDERS:
        model_folder.require(models / name, "dvc repro")

    # Work
    verdicts = judge(measured, limits)
    origins = list_origins(raw_folder, models, lock, measured["preprocess"])

    # Outputs
    files.write_texts({gates: files.dump_json(verdicts), lineage: files.dump_json(origins)})
    click.echo(f"{sum(verdict['passed'] for verdict in verdicts.values())} of {len(verdicts)} gates passed")
    for name, verdict in verdicts.items():
        if rev := verdict.get("not_worse_than"):
            click.echo(f"  to be compared with {rev}: {name}; `make gate` does it")
        elif not verdict["passed"]:
            state = "cannot be judged" if "problem" in verdict else "failed"
            click.echo(f"  {state}: {name}; `make gate` says what to check")


def list_origins(raw_folder: Path, models: Path, lock: Path, preprocess: dict[str, Any]) -> dict[str, Any]:
    """List the base model, the raw rows, the environment and the model files, with their hashes.

    The files are a list because `dvc metrics show` and `dvc exp show` make a column of every value in a dictionary.

    Args:
        raw_folder: data/raw.
        models: the folder of FOLDERS.
        lock: the locked environment.
        preprocess: metrics/preprocess.json.
    """
    manifest, config = (files.read_json(models / "base" / name) for name in ("manifest.json", "config.json"))
    raw_files = [fingerprints.facts(raw_folder / name) for name in sorted(preprocess["files"])]
    model_files = [facts for name in FOLDERS for facts in fingerprints.below(models / name)]
    return {
        "base": {
            "id": manifest["id"],
            "revision": manifest["revision"],
            "architecture": config.get("architectures", ["unknown"])[0],
        },
        "files": [*raw_files, fingerprints.facts(lock), *model_files],
        "rows": {key.removeprefix("rows_"): preprocess[key] for key in sorted(preprocess) if key.startswith("rows_")},
    }


if __name__ == "__main__":
    main()
