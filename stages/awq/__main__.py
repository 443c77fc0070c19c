"""Quantise base + adapter, by default to 4-bit weights with AWQ, and check that the files hold what they should.

Fifth stage: reads models/base, models/adapter and data/prepared/calibration.arrow, and writes models/awq in the
compressed-tensors format, which vLLM and transformers load. It adds the adapter in float32, as models/merged is
rounded. Then it compares the result with base + adapter on the val rows that merge uses. Run it with `dvc repro awq`,
or alone with `python -m stages.awq`.
"""

import os
import shutil
from pathlib import Path

import click

from stages.awq.calibration import read_calibration
from stages.awq.model import load_merged, load_model, load_outline, save_model
from stages.awq.params import AwqParams
from stages.awq.schemes import check_layers, plan_scheme
from stages.awq.verify import verify_model
from stages.common import agreement, device, files, model_folder, tokens
from stages.common.params import load_params


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--base", type=click.Path(path_type=Path), default="models/base", show_default=True)
@click.option("--adapter", type=click.Path(path_type=Path), default="models/adapter", show_default=True)
@click.option("--val", type=click.Path(path_type=Path), default="data/prepared/val.arrow", show_default=True)
@click.option("--merge", type=click.Path(path_type=Path), default="metrics/merge.json", show_default=True)
@click.option(
    "--calibration",
    "arrow",
    type=click.Path(path_type=Path),
    default="data/prepared/calibration.arrow",
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path), default="models/awq", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/awq.json", show_default=True)
def main(
    params: Path,
    base: Path,
    adapter: Path,
    val: Path,
    merge: Path,
    arrow: Path,
    out: Path,
    metrics: Path,
) -> None:
    # Params
    config = load_params(params, "awq", AwqParams)

    # Inputs
    model_folder.require(base, "dvc repro base")
    model_folder.require(adapter, "dvc repro train")
    merged = files.read_json(merge)
    source, command = (adapter, "dvc repro train") if agreement.is_full(adapter) else (base, "dvc repro base")
    check_layers(load_outline(source, command), config, params)  # before the weights are read
    rows, samples = read_calibration(arrow, config)
    val_rows = tokens.read(val, merged["rows"])
    network = load_model(source, command)
    recipe, expected = plan_scheme(network, config)
    stored = network.dtype
    network = load_merged(network, adapter)

    chosen = device.choose()
    click.echo(f"device: {chosen.name}, {chosen.dtype}: {chosen.reason}")

    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache

    if chosen.name == "cpu":  # llm-compressor 0.14 pins memory for an accelerator, and fails where there is none
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None

    with files.fresh_folder(out) as folder:
        # Work, in float32: the weights stay on the CPU, and one layer at a time is copied to the GPU
        oneshot(
            model=network,
            dataset=samples,
            recipe=recipe,
            num_calibration_samples=len(rows),
            max_seq_length=config.max_seq_length,
            shuffle_calibration_samples=False,
            use_loss_mask=config.use_loss_mask,
            log_dir=os.environ.get("LOG_FOLDER"),  # the library's full log
        )

        # Outputs
        before = save_model(network, stored, folder, rows, chosen.name)
        del network, recipe  # both hold the model; verify_model loads another
        for name in files.CHAT_FILES:  # byte for byte; the library would rewrite them
            if (base / name).exists():
                shutil.copyfile(base / name, folder / name)
        scores = verify_model(folder, expected, rows, before, chosen.name)
        found = agreement.compare(
            lambda: agreement.load_trained(base, adapter, chosen),
            {"awq": lambda: agreement.load(folder, chosen)},
            val_rows,
            config.batch_size,
            folder,
        )["awq"]
        size, merged_size = files.size_bytes(folder), merged["size_bytes"]
        scores |= {
            **found,
            "kept": agreement.kept(found["kl_mean"], merged["kl_base_mean"]),
            "rows": len(val_rows),
            "calibration_rows": len(rows),
            "size_bytes": size,
            "merged_size_bytes": merged_size,
            "size_ratio": round(size / merged_size, 6),
        }
        files.write_json(metrics, scores)
    click.echo(f"{scores['quantized_modules']} linear layers quantised; {merged_size} bytes before, {size} after")
    click.echo(f"KL {found['kl_mean']} from base + adapter; {scores['kept']} of the fine-tuning kept")


if __name__ == "__main__":
    main()
