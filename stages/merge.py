"""Add the adapter to the base weights, and measure what the addition changed.

Fourth stage: reads models/base and models/adapter, writes models/merged, and compares it on val rows with the
adapter applied at run time. Run it with `dvc repro merge`, or alone with `python -m stages.merge`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import PositiveInt

from stages.common import agreement, device, files, folders, merging, origin, settings, tokens
from stages.common.adapter import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MergeParams(settings.Section):
    """params.yaml: merge."""

    rows: PositiveInt
    batch_size: PositiveInt


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--adapter", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/merged", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/merge.json", show_default=True)
def main(params: Path, base: Path, adapter: Path, val: Path, out: Path, metrics: Path) -> None:
    # Params
    config = settings.load(params, "merge", MergeParams)

    # Inputs
    folders.require(base, "dvc repro base")
    folders.require(adapter, "dvc repro train")
    whole = (adapter / "config.json").exists()  # train.method: full
    for name in (origin.NOTE, *(() if whole else (CONFIG, WEIGHTS))):
        files.require(adapter / name, "dvc repro train")
    rows = tokens.read(val, config.rows)

    with files.fresh_folder(out) as folder:
        # Work
        merged_tensors = merging.merge(base, adapter, folder)
        copy_rest(base, folder)
        place = device.choose()
        click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
        scores = agreement.compare(
            lambda: load(adapter, place) if whole else load(base, place, adapter),
            lambda: load(folder, place),
            rows,
            config.batch_size,
            folder,
        )

        # Outputs
        scores |= {
            "rows": len(rows),
            "merged_tensors": merged_tensors,
            "size_bytes": files.size_bytes(folder),
            "base_size_bytes": files.size_bytes(base),
        }
        files.write_json(metrics, scores)
    click.echo(f"{merged_tensors} tensors merged; KL {scores['kl_mean']}, top-1 {scores['top1_agreement']}")


def copy_rest(base: Path, out: Path) -> None:
    """Carry tokenizer, chat template and configs over unchanged; the manifest speaks of the base alone."""
    for file in sorted(base.iterdir()):
        if file.suffix != ".safetensors" and file.name != "manifest.json":
            shutil.copyfile(file, out / file.name)


def load(folder: Path, place: device.Device, adapter: Path | None = None) -> "PreTrainedModel":
    """Load a model for use, with an adapter applied at run time where one is named."""
    import transformers
    from peft import PeftModel

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=place.dtype)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    return model.to(place.name).eval()


if __name__ == "__main__":
    main()
