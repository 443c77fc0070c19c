"""Quantise the merged model, to 4-bit weights with AWQ unless told otherwise, and prove that it was quantised.

Fifth stage: reads models/merged and data/prepared/calibration.arrow, writes models/awq in the
compressed-tensors format that vLLM and transformers load. Run it with `dvc repro awq`, or alone with
`python -m stages.awq`.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stages.common import calibration, device, files, folders, networks, quantization, reload, settings, sizes


class AwqParams(settings.Section):
    """params.yaml: awq."""

    scheme: Literal["W4A16_ASYM", "W4A16", "FP8_DYNAMIC", "W8A8"]
    group_size: PositiveInt | None
    duo_scaling: bool | Literal["both"] | None
    smoothing_strength: float | None = Field(ge=0, le=1)
    ignore: list[str]
    samples: PositiveInt
    max_seq_length: PositiveInt
    use_loss_mask: bool

    @field_validator("group_size", "duo_scaling", "smoothing_strength", "use_loss_mask")
    @classmethod
    def fits_the_scheme(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a value that the scheme has no use for, and a missing one that it needs."""
        scheme, key = info.data.get("scheme"), str(info.field_name)
        if scheme and (problem := quantization.misfit(scheme, key, value)):
            raise PydanticCustomError("misfit", "{problem}", {"problem": problem})
        return value


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--model", type=click.Path(path_type=Path), default="models/merged", show_default=True)
@click.option(
    "--calibration",
    "arrow",
    type=click.Path(path_type=Path),
    default="data/prepared/calibration.arrow",
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path), default="models/awq", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/awq.json", show_default=True)
def main(params: Path, model: Path, arrow: Path, out: Path, metrics: Path) -> None:
    # Params
    config = settings.load(params, "awq", AwqParams)

    # Inputs
    folders.require(model, "dvc repro merge")
    rows = calibration.read(arrow, config)
    samples = calibration.samples(rows, config)
    network = networks.load(model, "dvc repro merge")
    wanted = sizes.expected(network, quantization.layers(network, config), quantization.scheme(config))
    stored = network.dtype

    from llmcompressor import oneshot

    place = device.choose()
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")

    # Work
    quantization.let_pinning_pass()
    with files.fresh_folder(out) as folder:
        # The model stays on the CPU, its layers visit the GPU by turns; the full log goes beside console.log.
        oneshot(
            model=network.to(place.dtype),
            dataset=samples,
            recipe=quantization.recipe(config),
            num_calibration_samples=len(rows),
            max_seq_length=config.max_seq_length,
            shuffle_calibration_samples=False,
            use_loss_mask=config.use_loss_mask,
            log_dir=os.environ.get("LOG_FOLDER"),
        )

        # Outputs
        before = reload.save(network, stored, folder, rows, place.name)
        del network  # before another comes into memory
        copy_words(model, folder)
        quantized = sizes.check(folder, wanted)
        divergence = reload.compare(folder, rows, before, place.name)
        size, merged_size = files.size_bytes(folder), files.size_bytes(model)
        scores = {
            "quantized_modules": quantized,
            "expected_modules": len(wanted.layers),
            "calibration_rows": len(rows),
            "reload_kl_mean": round(divergence, 6),
            "size_bytes": size,
            "merged_size_bytes": merged_size,
            "size_ratio": round(size / merged_size, 6),
        }
        files.write_json(metrics, scores)
    click.echo(f"{quantized} linear layers quantised, as expected; {merged_size} bytes before, {size} after")


def copy_words(model: Path, out: Path) -> None:
    """Carry tokenizer and chat template over byte for byte; the library would write them in its own way."""
    for name in files.CHAT_FILES:
        if (model / name).exists():
            shutil.copyfile(model / name, out / name)


if __name__ == "__main__":
    main()
