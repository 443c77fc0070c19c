"""Quantise base + adapter, by default to 4-bit weights with AWQ, and check that the files hold what they should.

Fifth stage: reads models/base, models/adapter and data/prepared/calibration.arrow, and writes models/awq in the
compressed-tensors format, which vLLM and transformers load. It adds the adapter in float32, as models/merged is
rounded. Then it compares the result with base + adapter on the val rows that merge uses. Run it with `dvc repro awq`,
or alone with `python -m stages.awq`.
"""

import os
from pathlib import Path

import click

from stages.awq.calibration import read_calibration
from stages.awq.model import copy_chat, find_weights, load_merged, load_model, load_outline, pin_no_memory, save_model
from stages.awq.params import AwqParams
from stages.awq.schemes import check_layers, plan_scheme
from stages.awq.verify import compare_sizes, compare_trained, verify_model
from stages.common import device, files, tokens
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
    params: Path, base: Path, adapter: Path, val: Path, merge: Path, arrow: Path, out: Path, metrics: Path
) -> None:
    # Params
    config = load_params(params, "awq", AwqParams)

    # Inputs
    source, command = find_weights(base, adapter)
    merged = files.read_json(merge)
    check_layers(load_outline(source, command), config, params)  # before the weights are read
    rows, samples = read_calibration(arrow, config)
    val_rows = tokens.read(val, merged["rows"])
    network = load_model(source, command)
    recipe, expected = plan_scheme(network, config)
    stored = network.dtype
    network = load_merged(network, adapter)
    chosen = device.choose()
    click.echo(f"device: {chosen.name}, {chosen.dtype}: {chosen.reason}")

    pin_no_memory(chosen)

    from llmcompressor import oneshot

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
        copy_chat(base, folder)
        scores = {
            **verify_model(folder, expected, rows, before, chosen.name),
            **compare_trained(base, adapter, folder, val_rows, config.batch_size, merged["kl_base_mean"], chosen),
            "calibration_rows": len(rows),
            **compare_sizes(files.size_bytes(folder), merged["size_bytes"]),
        }
        files.write_json(metrics, scores)
    click.echo(f"{scores['quantized_modules']} linear layers quantised, {scores['size_ratio']} of the merged bytes")
    click.echo(f"KL {scores['kl_mean']} from base + adapter; {scores['kept']} of the fine-tuning kept")


if __name__ == "__main__":
    main()
