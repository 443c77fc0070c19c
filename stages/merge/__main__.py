"""Add the adapter to the base model's weights, and measure what changes.

Fourth stage: reads models/base and models/adapter, and writes models/merged. Then it compares the merged model with
the base model plus adapter on val rows. Run it with `dvc repro merge`, or alone with `python -m stages.merge`.
"""

from pathlib import Path

import click

from stages.common import agreement, device, files, model_folder, tokens, trained_on
from stages.common.adapter_config import CONFIG, WEIGHTS
from stages.common.params import load_params
from stages.merge.params import MergeParams
from stages.merge.plan import plan_merge
from stages.merge.proof import misplaced
from stages.merge.rewrite import rewrite_weights, write_others


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--adapter", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="models/merged", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/merge.json", show_default=True)
def main(params: Path, base: Path, adapter: Path, val: Path, out: Path, metrics: Path) -> None:
    # Params
    config = load_params(params, "merge", MergeParams)

    # Inputs
    model_folder.require(base, "dvc repro base")
    model_folder.require(adapter, "dvc repro train")
    full = agreement.is_full(adapter)
    for name in (trained_on.NOTE, *(() if full else (CONFIG, WEIGHTS))):
        files.require(adapter / name, "dvc repro train")
    lora = None if full else files.read_json(adapter / CONFIG)
    rows = tokens.read(val, config.rows)
    others = [file for file in sorted(base.iterdir()) if file.suffix != ".safetensors"]
    trained_on.require(base, adapter, trained_on.checksums(others))

    with files.fresh_folder(out) as folder:
        # Work
        plan = plan_merge(base, adapter, lora)
        merged_tensors = rewrite_weights(base, adapter, folder, plan, config.dtype, config.seed)
        write_others(others, folder, config.dtype)
        chosen = device.choose()
        click.echo(f"device: {chosen.name}, {chosen.dtype}: {chosen.reason}")
        proof = misplaced(agreement.load_trained(base, adapter, chosen), folder, config.seed is None)
        agreement.free_memory()
        found = agreement.compare(
            lambda: agreement.load_trained(base, adapter, chosen),
            {"merged": lambda: agreement.load(folder, chosen), "base": lambda: agreement.load(base, chosen)},
            rows,
            config.batch_size,
            folder,
        )

        # Outputs
        base_kl = found["base"]["kl_mean"]
        scores = {
            **found["merged"],
            **proof,
            "kl_base_mean": base_kl,
            "kept": agreement.kept(found["merged"]["kl_mean"], base_kl),
            "rows": len(rows),
            "merged_tensors": merged_tensors,
            "size_bytes": files.size_bytes(folder),
            "base_size_bytes": files.size_bytes(base),
        }
        files.write_json(metrics, scores)
    click.echo(
        f"{merged_tensors} tensors merged; KL {scores['kl_mean']}, top-1 {scores['top1_agreement']}; of the "
        f"fine-tuning (KL {base_kl}) {scores['kept']} kept"
    )


if __name__ == "__main__":
    main()
