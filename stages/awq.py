"""Quantise the merged model to 4-bit weights with AWQ, and prove that it was quantised.

Fifth stage: reads models/merged and data/prepared/calibration.arrow, writes models/awq in the
compressed-tensors format that vLLM and transformers load. Run it with `dvc repro awq`, or alone with
`python -m stages.awq`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import PositiveInt

from stages.common import device, files, settings, tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


class AwqParams(settings.Section):
    """params.yaml: awq."""

    scheme: Literal["W4A16_ASYM", "W4A16"]
    group_size: PositiveInt
    duo_scaling: bool | Literal["both"]
    ignore: list[str]
    max_seq_length: PositiveInt


@click.command(help=__doc__)
@click.option("--params", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--model", type=click.Path(path_type=Path), default="models/merged", show_default=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default="data/prepared/calibration.arrow",
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path), default="models/awq", show_default=True)
@click.option("--metrics", type=click.Path(path_type=Path), default="metrics/awq.json", show_default=True)
def main(params: Path, model: Path, calibration: Path, out: Path, metrics: Path) -> None:
    # Params
    config = settings.load(params, "awq", AwqParams)

    # Inputs
    files.require(model, "dvc repro merge")
    rows = tokens.read(calibration)

    import transformers
    from llmcompressor import oneshot

    place = device.choose()
    click.echo(f"device: {place.name}, {place.dtype}: {place.reason}")
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=place.dtype)
    stored_dtype = transformers.AutoConfig.from_pretrained(model).dtype
    expected = expected_modules(network, config)

    # Work
    let_pinning_pass()
    samples = cut(rows, config.max_seq_length)
    with files.fresh_folder(out) as folder:
        oneshot(
            model=network,
            dataset=samples,
            recipe=recipe(config),
            num_calibration_samples=len(samples),
            max_seq_length=config.max_seq_length,
            shuffle_calibration_samples=False,
        )

        # Outputs
        network.to(stored_dtype).save_pretrained(folder, save_compressed=True)
        copy_words(model, folder)
        quantized = quantized_modules(folder)
        if quantized != expected:
            raise click.ClickException(f"awq: {quantized} of {expected} linear layers quantised; see awq.ignore")
        size, before = files.size_bytes(folder), files.size_bytes(model)
        scores = {
            "quantized_modules": quantized,
            "expected_modules": expected,
            "calibration_rows": len(samples),
            "size_bytes": size,
            "merged_size_bytes": before,
            "size_ratio": round(size / before, 6),
        }
        files.write_json(metrics, scores)
    click.echo(f"{quantized} of {expected} linear layers quantised; {before} bytes before, {size} after")


def recipe(config: AwqParams) -> list[Any]:
    """Give llm-compressor's modifiers: AWQ smoothing (https://arxiv.org/abs/2306.00978), then rounding."""
    from compressed_tensors.quantization import preset_name_to_scheme
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    scheme = preset_name_to_scheme(config.scheme, targets=["Linear"])
    scheme.weights.group_size = config.group_size  # presets know 128 only
    return [
        AWQModifier(duo_scaling=config.duo_scaling),
        QuantizationModifier(config_groups={"group_0": scheme}, ignore=config.ignore),
    ]


def expected_modules(network: "PreTrainedModel", config: AwqParams) -> int:
    """Count the linear layers that must come out quantised.

    Raises:
        click.ClickException: a layer whose input width does not divide by the group size, an entry of awq.ignore
            that matches nothing, or no layer left.
    """
    from compressed_tensors.utils import match_named_modules

    for entry in config.ignore:
        if not any(match_named_modules(network, [entry])):
            raise click.ClickException(f"awq.ignore: {entry}: matches no layer of the model; `re:` begins a pattern")
    layers = list(match_named_modules(network, ["Linear"], config.ignore))
    if not layers:
        raise click.ClickException("awq.ignore leaves no linear layer to quantise; make it shorter")
    for name, layer in layers:
        if layer.in_features % config.group_size:
            raise click.ClickException(
                f"awq.group_size {config.group_size} does not divide {name} ({layer.in_features} wide); "
                f"{layer.in_features & -layer.in_features} and its divisors do"
            )
    return len(layers)


def quantized_modules(folder: Path) -> int:
    """Count the layers with packed weights in a saved model, from the files alone."""
    from safetensors import safe_open

    count = 0
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            count += sum(name.endswith(".weight_packed") for name in file.keys())  # noqa: SIM118  not a dict
    return count


def cut(rows: list[tokens.TokenRow], max_seq_length: int) -> "Dataset":
    """Give calibration rows as the dataset that llm-compressor takes, none longer than `max_seq_length`."""
    from datasets import Dataset

    ids = [row.ids[:max_seq_length] for row in rows]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


def copy_words(model: Path, out: Path) -> None:
    """Carry tokenizer and chat template over byte for byte; the library would write them in its own way."""
    for name in files.CHAT_FILES:
        if (model / name).exists():
            shutil.copyfile(model / name, out / name)


def let_pinning_pass() -> None:
    """Let llm-compressor 0.14 run without an accelerator, where pinning memory for one can only fail."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None


if __name__ == "__main__":
    main()
