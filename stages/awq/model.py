"""Model: load it with every weight from its files, save it quantised, and compute its predictions."""

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.common import files, model_folder
from stages.common.agreement import is_full
from stages.common.batches import answer_logits, padded
from stages.common.device import Device
from stages.common.tokens import TokenRow

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ROWS = 4  # rows to compare models on, in one batch: on a GPU, each batch copies every layer there once more


def find_weights(base: Path, adapter: Path) -> tuple[Path, str]:
    """Return the folder that holds all weights, the base or what a full fine-tuning left, and what makes it again.

    Raises:
        click.ClickException: one of the two folders is missing or not safe to load.
    """
    model_folder.require(base, "dvc repro base")
    model_folder.require(adapter, "dvc repro train")
    return (adapter, "dvc repro train") if is_full(adapter) else (base, "dvc repro base")


def load_outline(folder: Path, command: str) -> "PreTrainedModel":
    """Build a model from its config alone, on torch's meta device: layers with names and shapes, but no weights.

    Args:
        folder: the model folder.
        command: makes the folder again; for messages.

    Raises:
        click.ClickException: config.json is missing or broken.
    """
    files.require(folder / "config.json", command)

    import torch
    import transformers

    with _loading(folder, command), torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))


def load_merged(network: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    """Add the adapter to the base model in float32.

    What models/merged stores is rounded: that would cost a part of a small adapter before quantisation begins.

    Args:
        network: the base model, or the one that a full fine-tuning left.
        adapter: its adapter, or the folder of that model.
    """
    network = network.float()
    if is_full(adapter):
        return network
    from peft import PeftModel

    return PeftModel.from_pretrained(network, adapter).merge_and_unload().eval()


def load_model(folder: Path, command: str) -> "PreTrainedModel":
    """Load a model on the CPU, in the dtype that it is stored in.

    Args:
        folder: the model folder.
        command: makes the folder again; for messages.

    Raises:
        click.ClickException: the folder or a file is broken, or no file holds one of the weights. transformers would
            only warn and initialise that weight at random.
    """
    files.require(folder / "config.json", command)

    import transformers

    with _loading(folder, command):
        network, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    lost = dict.fromkeys(found["missing_keys"], "in no weight file")
    lost |= {
        name: f"shape {tuple(stored)} in the weight file, {tuple(wanted)} in config.json"
        for name, stored, wanted in found["mismatched_keys"]
    }
    if lost:
        name = min(lost)
        raise click.ClickException(f"{folder}: {name}: {lost[name]} ({len(lost)} such weights); run `{command}`")
    return network.eval()


@contextlib.contextmanager
def _loading(folder: Path, command: str) -> Iterator[None]:
    """Turn what transformers raises on a broken model folder into one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        problem = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise click.ClickException(f"{folder}: cannot be loaded: {problem}; run `{command}`") from None


def pin_no_memory(device: Device) -> None:
    """Keep llm-compressor 0.14 from pinning memory for an accelerator where there is none: it would fail."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    if device.name == "cpu":
        IntermediatesCache.pin_memory = lambda *args, **kwargs: None


def copy_chat(base: Path, folder: Path) -> None:
    """Copy tokenizer and chat template byte for byte; the library would rewrite them."""
    for name in files.CHAT_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def save_model(
    network: "PreTrainedModel", stored: "torch.dtype", folder: Path, rows: list[TokenRow], device: str
) -> "torch.Tensor":
    """Save a model that llm-compressor has quantised.

    Args:
        network: the model, as llm-compressor leaves it.
        stored: the dtype of what is not quantised.
        folder: where to save it.
        rows: the calibration rows.
        device: where to compute; weights are copied there layer by layer, as in calibration.

    Returns:
        The model's `log_probabilities` before it is packed.
    """
    from compressed_tensors.offload import disable_offloading, remove_dispatch, set_onload_device
    from compressed_tensors.quantization.utils import is_module_quantized
    from llmcompressor import reset_session

    network = remove_dispatch(network)
    for layer in filter(is_module_quantized, network.modules()):
        round_weights(layer, stored)
    set_onload_device(network.to(stored), device)
    for layer in filter(is_module_quantized, network.modules()):
        # Its forward rounds the weight in place, and would copy it from the host again before it computes.
        layer.forward = disable_offloading()(layer.forward)
    before = log_probabilities(network, rows)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a model on the CPU is offloaded
        network.save_pretrained(folder, save_compressed=True)
    reset_session()  # it holds the model
    return before


def round_weights(layer: "torch.nn.Module", stored: "torch.dtype") -> None:
    """Round the float32 weights of a layer to its 4 or 8 bits, with the scales as they are stored.

    Otherwise its weights would be rounded to the stored dtype first, and to their bits after that. The numbers of 4
    bits and of FP8 are far enough apart that the stored dtype does not change them; of 8-bit integers it moves some
    of the largest by one step.
    """
    from compressed_tensors.quantization import fake_quantize

    scale = layer.weight_scale.data.to(stored).float()
    how = layer.quantization_scheme.weights
    layer.weight.data = fake_quantize(layer.weight.data.float(), scale, layer.weight_zero_point.data, how)


def log_probabilities(network: "PreTrainedModel", rows: list[TokenRow]) -> "torch.Tensor":
    """Compute log-probabilities for the assistant tokens of the first ROWS rows that have some.

    Where no row has an assistant token, all tokens of the first ROWS rows count.

    Returns:
        Shape (tokens, vocabulary), float32, on the CPU.

    Raises:
        click.ClickException: one of them is infinite or NaN.
    """
    import torch

    chosen = [row for row in rows if 1 in row.mask[1:]][:ROWS]
    chosen = chosen or [TokenRow(row.ids, [1] * len(row.ids)) for row in rows[:ROWS]]
    (batch,) = padded(chosen, ROWS)
    with torch.inference_mode():
        found = answer_logits(network, batch).log_softmax(-1).cpu()
    if not found.isfinite().all():
        raise click.ClickException(
            "awq.scheme: the quantised model computes infinite numbers or NaN, so it is not kept; try another scheme"
        )
    return found
